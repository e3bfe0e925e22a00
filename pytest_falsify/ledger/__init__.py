"""The evidence and the status of all falsifiers."""
