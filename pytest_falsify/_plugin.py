"""pytest's hooks. Nothing heavy is imported before `--falsify` asks for it."""
