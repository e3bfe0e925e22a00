"""The dtypes that can be measured, their values in float32 or float64, and their bits."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

SIGNED, UNSIGNED = ({size: np.dtype(f"{kind}{size}") for size in (1, 2, 4, 8)} for kind in "iu")
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
NARROW_FLOATS = frozenset(
    np.dtype(each)
    for each in (
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e5m2fnuz,
    )
)
BUILT_IN = frozenset(map(np.dtype, "?bBhHiIlLqQefd"))


@cache
def is_measurable(dtype: np.dtype[Any]) -> bool:
    """Tell whether values of this dtype can be measured."""
    return dtype in BUILT_IN or dtype in NARROW_FLOATS


@cache
def is_narrow(dtype: np.dtype[Any]) -> bool:
    """Tell whether float32 holds every value of a dtype."""
    return np.can_cast(dtype, FLOAT32) if dtype in BUILT_IN else dtype in NARROW_FLOATS


def widened(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return the values in float32 or float64; as they are, where that is their dtype."""
    if values.dtype == BFLOAT16:
        upper_half = values.view(np.uint16).astype(np.uint32) << np.uint32(16)
        return upper_half.view(FLOAT32).astype(dtype, copy=False)
    if values.dtype in NARROW_FLOATS:
        return _eight_bit_values(values.dtype, dtype).take(values.view(np.uint8))
    return values.astype(dtype, copy=False)


@cache
def _eight_bit_values(narrow: np.dtype[Any], wide: np.dtype[Any]) -> Array:
    return np.arange(256, dtype=np.uint8).view(narrow).astype(wide)


def bits(values: Array) -> Array:
    """Return the same memory as signed integers."""
    return values.view(SIGNED[values.itemsize])


def unsigned(values: Array) -> Array:
    """Return the same memory as unsigned integers."""
    return values.view(UNSIGNED[values.itemsize])


def in_one_dtype(x: Array, y: Array) -> tuple[Array, Array]:
    """Return both in the dtype that units in the last place are counted in.

    It is the coarser of two float dtypes, and float64 where one of the two is an integer.
    """
    if x.dtype == y.dtype:
        return x, y
    dtype = _common_dtype(x.dtype, y.dtype)
    if dtype.kind in "iu":
        return x.astype(dtype), y.astype(dtype)
    x, y = (
        each if each.dtype == dtype else widened(each, FLOAT64).astype(dtype) for each in (x, y)
    )
    return x, y


@cache
def _common_dtype(x: np.dtype[Any], y: np.dtype[Any]) -> np.dtype[Any]:
    are_integers = [each.kind in "biu" for each in (x, y)]
    if all(are_integers):
        return np.promote_types(x, y)
    if any(are_integers):
        return FLOAT64
    return min(x, y, key=lambda dtype: int(ml_dtypes.finfo(dtype).nmant))


def steps(x: Array, y: Array, differing: Array | None = None) -> Array:
    """Return the distance of each pair in units in the last place; both zeros are one float.

    Args:
        x: values of any dtype, without NaN and infinities.
        y: values of the same shape.
        differing: where the dtypes are one and a float's, the exclusive or of their bits.
    """
    is_one = x.dtype == y.dtype
    x, y = in_one_dtype(x, y)
    if x.dtype.kind in "biu":
        x, y = (each.view(np.uint8) if each.dtype.kind == "b" else each for each in (x, y))
        return unsigned(np.maximum(x, y) - np.minimum(x, y))
    a, b = bits(x), bits(y)
    return float_steps(a, b, a ^ b if differing is None or not is_one else differing)


def float_steps(x: Array, y: Array, differing: Array) -> Array:
    """Return how many floats lie from x to y, from their bits as signed integers.

    Args:
        x: the bits.
        y: the bits.
        differing: their exclusive or, negative where the signs differ.
    """
    found = unsigned(np.abs(x - y))
    places = (differing < 0).ravel().nonzero()[0]
    if places.size:
        magnitude = np.iinfo(x.dtype).max
        from_zero = (unsigned(each.take(places) & magnitude) for each in (x, y))
        found.put(places, sum(from_zero))
    return found
