"""Tensors of torch as arrays of NumPy, bfloat16 included."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    Array = np.ndarray[Any, Any]


def as_numpy(tensor: torch.Tensor) -> Array:
    """Return a tensor of the CPU as an array that shares its memory.

    bfloat16 becomes ml_dtypes' bfloat16.
    """
    import torch

    if tensor.dtype is torch.bfloat16:
        bits: Array = tensor.detach().view(torch.uint16).numpy()
        return bits.view(numpy_dtype(tensor.dtype))
    array: Array = tensor.detach().numpy()
    return array


def multiply(left: Array, right: Array) -> Array:
    """Return the product of two matrices, by torch: with few columns it is faster than NumPy."""
    import torch

    found: Array = torch.mm(torch.from_numpy(left), torch.from_numpy(right)).numpy()
    return found


@lru_cache(maxsize=32)
def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """Return the dtype that ``as_numpy`` gives a tensor of a dtype."""
    import ml_dtypes
    import torch

    is_known = dtype is not torch.bfloat16
    found: np.dtype[Any] = np.dtype(
        torch.empty(0, dtype=dtype).numpy().dtype if is_known else ml_dtypes.bfloat16
    )
    return found
