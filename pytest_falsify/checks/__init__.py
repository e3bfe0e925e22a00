"""The kinds of test: each takes captures and comparisons and returns a verdict."""
