"""Tensors of any framework as NumPy arrays: torch, NumPy, ``__array__``, DLPack, plain lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

NUMBERS = "fiu"


def to_array(value: Any, what: str) -> Array:
    """Return a tensor as an array of the host, in its own dtype.

    Args:
        value: of torch (any device, bfloat16 included), of NumPy, anything with ``__dlpack__`` or
            ``__array__``, or nested lists of numbers.
        what: what it is, for messages.

    Raises:
        CaptureError: when it is no array of numbers.
    """
    found = _converted(value, what)
    if found.dtype.kind not in NUMBERS and found.dtype.name != "bfloat16":
        msg = f"{what} holds {found.dtype}"
        raise CaptureError(msg, expected="numbers")
    return found


def _converted(value: Any, what: str) -> Array:
    if type(value).__module__.partition(".")[0] == "torch":
        from pytest_falsify.engines.handout import off_device

        return off_device(value.detach())
    try:
        if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        msg = f"{what} is no array: {error}"
        raise CaptureError(
            msg, expected="a tensor of torch, NumPy, __array__ or DLPack, or lists of numbers"
        ) from error


def smallest_unsigned(largest: int) -> np.dtype[Any]:
    """Return the smallest unsigned dtype that holds every number up to the largest."""
    return np.min_scalar_type(largest)
