"""Lint: what a contract says that is not so, though every word of it is well-formed."""
