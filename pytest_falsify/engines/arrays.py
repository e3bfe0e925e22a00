"""Tensors of torch as arrays of NumPy, bfloat16 included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]


def as_numpy(tensor: torch.Tensor) -> Array:
    """Return a tensor of the CPU as an array that shares its memory.

    bfloat16 becomes ml_dtypes' bfloat16.
    """
    import torch

    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        bits: Array = tensor.detach().view(torch.uint16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: Array = tensor.detach().numpy()
    return array


def multiply(left: Array, right: Array) -> Array:
    """Return the product of two matrices, by torch: with few columns it is faster than NumPy."""
    import torch

    found: Array = torch.mm(torch.from_numpy(left), torch.from_numpy(right)).numpy()
    return found
