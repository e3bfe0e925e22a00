"""The tensors of one run at the planned sites, and how they came to be."""
