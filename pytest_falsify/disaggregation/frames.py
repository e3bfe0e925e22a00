"""Tensors of torch as the bytes of a safetensors file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_falsify.captures.tensor_file import tensor_buffers, tensors_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]

RECEIVED = Path("received.safetensors")
"""What messages call bytes that came from nowhere on disk."""


def framed(tensors: Mapping[str, torch.Tensor]) -> list[memoryview]:
    """Return the bytes of tensors in pieces: a header, then each tensor's own memory."""
    return tensor_buffers({name: to_array(each) for name, each in tensors.items()})


def unframed(data: memoryview) -> dict[str, torch.Tensor]:
    """Return tensors as views of their bytes, which have to be writable.

    Raises:
        CaptureError: when the bytes are not whole.
    """
    return {name: to_tensor(each) for name, each in tensors_in(data, RECEIVED).items()}


def to_array(tensor: torch.Tensor) -> Array:
    """Return a tensor as an array: of the same memory where it is on the CPU and in C order."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    stand_in = _stand_ins().get(tensor.dtype)
    if stand_in is None:
        array: Array = tensor.numpy()
        return array
    bits: Array = tensor.view(getattr(torch, f"uint{8 * stand_in.itemsize}")).numpy()
    return bits.view(stand_in)


def to_tensor(array: Array) -> torch.Tensor:
    """Return an array as a tensor of the same memory."""
    import torch

    for kind, stand_in in _stand_ins().items():
        if array.dtype == stand_in:
            return torch.from_numpy(array.view(f"u{stand_in.itemsize}")).view(kind)
    return torch.from_numpy(array)


def _stand_ins() -> dict[Any, np.dtype[Any]]:
    """Return NumPy's dtypes for those of torch that it does not know by itself."""
    import ml_dtypes
    import numpy as np
    import torch

    return {
        torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
        torch.float8_e4m3fn: np.dtype(ml_dtypes.float8_e4m3fn),
    }
