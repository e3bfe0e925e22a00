"""The named points of a forward pass."""
