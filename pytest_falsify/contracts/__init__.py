"""YAML contracts read into frozen objects."""
