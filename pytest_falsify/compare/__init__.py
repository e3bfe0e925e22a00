"""Statistics of pairs of tensors. Pure: values in, values out."""
