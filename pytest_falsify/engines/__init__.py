"""What runs a model and hands out tensors."""
