"""Tensors of torch as arrays of NumPy, bfloat16 included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]


BFLOAT16_BYTES = 2


def as_numpy(tensor: torch.Tensor) -> Array:
    """Return a tensor of the CPU as an array that shares its memory.

    bfloat16 becomes ml_dtypes' bfloat16. Every tensor that is looked at comes through here, between
    two operations of a model, so nothing is done that need not be.
    """
    values = tensor.detach() if tensor.requires_grad else tensor
    if values.dtype.itemsize == BFLOAT16_BYTES:
        import torch

        if values.dtype is torch.bfloat16:
            import ml_dtypes

            bits: Array = values.view(torch.uint16).numpy()
            return bits.view(ml_dtypes.bfloat16)
    array: Array = values.numpy()
    return array
