"""One pass over a pair of tensors: everything that can be asked of it later, row by row.

The pass works on blocks of at most ``BLOCK`` values, which stay in the processor's cache, and adds
in float64. The sums of a row depend on its values and its length alone: not on the rows beside it,
on how the tensor is cut, or on the number of threads (a block is too short for a BLAS to split).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from pytest_falsify.compare.rows import FLOATS, INTEGERS, RowSums
from pytest_falsify.errors import AlignmentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_falsify.compare.statistics import PairStatistics

    Array = NDArray[Any]

BLOCK = 8192
"""Values in a block: three of them in float64 fit the second-level cache of any server core."""

LONG_ROW = 512
LARGEST = 2**63 - 1
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

MEASURABLE = frozenset(map(np.dtype, "?bBhHiIlLqQefd"))


def pair_sums(x: Array, y: Array, *, row_length: int) -> RowSums:
    """Measure a pair of tensors of one shape.

    Args:
        x: the oracle's values: float64/32/16, bfloat16, fp8, integers or booleans, any shape.
        y: the subject's values, of the same shape; the dtype may differ.
        row_length: how many consecutive values, in C order, make a row.

    Raises:
        AlignmentError: when the shapes differ, a row does not fit, or a dtype has no numbers.
    """
    _refuse_unlike(x, y, row_length)
    flat_x, flat_y = (np.ascontiguousarray(each).reshape(-1) for each in (x, y))
    sums = RowSums.zeros(flat_x.size // row_length, row_length)
    with np.errstate(all="ignore"):
        if row_length <= BLOCK:
            _measure_short_rows(flat_x, flat_y, sums)
        else:
            _measure_long_rows(flat_x, flat_y, sums)
    return sums


@cache
def is_measurable(dtype: np.dtype[Any]) -> bool:
    """Tell whether values of this dtype can be measured."""
    return dtype in MEASURABLE or dtype in NARROW_FLOATS


def _refuse_unlike(x: Array, y: Array, row_length: int) -> None:
    sides = f"oracle {x.shape} {x.dtype}, subject {y.shape} {y.dtype}"
    if x.shape != y.shape:
        msg = f"the shapes differ: {sides}"
        raise AlignmentError(msg, expected="two tensors of one shape")
    if row_length < 1 or x.size % row_length:
        msg = f"rows of {row_length} values do not fill the tensors: {sides}"
        raise AlignmentError(msg, expected="a row length that divides the number of values")
    if not (is_measurable(x.dtype) and is_measurable(y.dtype)):
        msg = f"a dtype that cannot be measured: {sides}"
        raise AlignmentError(msg, expected="float64/32/16, bfloat16, fp8, integers or booleans")


def _measure_short_rows(x: Array, y: Array, sums: RowSums) -> None:
    length = sums.row_length
    step = BLOCK // length
    x, y = x.reshape(-1, length), y.reshape(-1, length)
    for start in range(0, len(sums), step):
        stop = min(start + step, len(sums))
        _measure(x[start:stop], y[start:stop], sums.slice(start, stop))


def _measure_long_rows(x: Array, y: Array, sums: RowSums) -> None:
    length = sums.row_length
    for index in range(len(sums)):
        row = slice(index * length, (index + 1) * length)
        whole = _segments(x[row], y[row], BLOCK)
        statistics = whole.total()
        rest = length % BLOCK
        if rest:
            tail = slice((index + 1) * length - rest, (index + 1) * length)
            statistics = statistics.merge(_segments(x[tail], y[tail], rest).total())
        _store(sums, index, statistics)


def _segments(x: Array, y: Array, length: int) -> RowSums:
    count = x.size // length
    parts = RowSums.zeros(count, length)
    _measure_short_rows(x[: count * length], y[: count * length], parts)
    return parts


def _store(sums: RowSums, index: int, statistics: PairStatistics) -> None:
    for name in (*FLOATS, *INTEGERS):
        sums.column(name)[index] = getattr(statistics, name)


def _measure(x: Array, y: Array, sums: RowSums) -> None:
    """Fill in the sums of a few rows: x, y (rows, length)."""
    wide_x = _widened(x)
    sums.column("n")[:] = sums.column("finite")[:] = sums.row_length
    sums.column("sum_x2")[:] = _dots(wide_x, wide_x)
    if _have_equal_bits(x, y) and np.isfinite(sums.column("sum_x2")).all():
        sums.column("sum_y2")[:] = sums.column("sum_x2")
        return
    wide_y = _widened(y)
    sums.column("sum_y2")[:] = _dots(wide_y, wide_y)
    has_nonfinite = not np.isfinite(sums.column("sum_x2") + sums.column("sum_y2")).all()
    if x.dtype != y.dtype:
        sums.column("mismatched")[:] = _count(_bits(wide_x) != _bits(wide_y))
        x, y = _in_one_dtype(x, y)
    else:
        sums.column("mismatched")[:] = _count(_bits(x) != _bits(y))
    if has_nonfinite:
        x, y, wide_x, wide_y = _without_nonfinite(x, y, wide_x, wide_y, sums)
    _measure_difference(wide_x, wide_y, sums)
    sums.column("max_ulp")[:] = _distances(x, y)


def _measure_difference(x: Array, y: Array, sums: RowSums) -> None:
    """Fill in all sums of d: x, y (rows, length) float64, finite; y is overwritten."""
    d = np.subtract(y, x, out=y)
    sums.column("sum_d2")[:] = _dots(d, d)
    sums.column("sum_xd")[:] = _dots(x, d)
    sums.column("sum_d")[:] = np.add.reduce(d, axis=1)
    magnitude = np.abs(d, out=d)
    sums.column("sum_abs_d")[:] = np.add.reduce(magnitude, axis=1)
    places = magnitude.argmax(axis=1)
    sums.column("max_abs_d")[:] = magnitude[np.arange(len(sums)), places]
    has_stray = sums.column("nonfinite_mismatch") > 0
    np.copyto(sums.column("where"), places, where=~has_stray)


def _without_nonfinite(
    x: Array, y: Array, wide_x: Array, wide_y: Array, sums: RowSums
) -> tuple[Array, Array, Array, Array]:
    """Count NaN and infinities, and return the pair with zeros in their places."""
    is_finite_x, is_finite_y = np.isfinite(wide_x), np.isfinite(wide_y)
    is_finite = is_finite_x & is_finite_y
    is_stray = ~is_finite & ~(wide_x == wide_y)
    sums.column("finite")[:] = is_finite.sum(axis=1)
    sums.column("nonfinite_x")[:] = sums.row_length - is_finite_x.sum(axis=1)
    sums.column("nonfinite_y")[:] = sums.row_length - is_finite_y.sum(axis=1)
    sums.column("nonfinite_mismatch")[:] = is_stray.sum(axis=1)
    sums.column("where")[:] = is_stray.argmax(axis=1)
    x, y, wide_x, wide_y = (
        np.where(is_finite, each, each.dtype.type(0)) for each in (x, y, wide_x, wide_y)
    )
    sums.column("sum_x2")[:] = _dots(wide_x, wide_x)
    sums.column("sum_y2")[:] = _dots(wide_y, wide_y)
    return x, y, wide_x, wide_y


def _widened(values: Array) -> Array:
    """Return a new array of the values in float64."""
    if values.dtype == BFLOAT16:
        upper_half = values.view(np.uint16).astype(np.uint32) << np.uint32(16)
        return upper_half.view(np.float32).astype(np.float64)
    if values.dtype in NARROW_FLOATS:
        return _eight_bit_values(values.dtype)[values.view(np.uint8)]
    return values.astype(np.float64)


@cache
def _eight_bit_values(dtype: np.dtype[Any]) -> Array:
    return np.arange(256, dtype=np.uint8).view(dtype).astype(np.float64)


def _dots(a: Array, b: Array) -> Array:
    """Return the dot product of each row of a with the same row of b: (rows,)."""
    products: Array = np.matmul(a[:, np.newaxis, :], b[:, :, np.newaxis])
    return products[:, 0, 0]


def _count(truths: NDArray[np.bool_]) -> Array:
    """Return how many values of each row are true; counting a long row alone is 4 times faster."""
    if truths.shape[1] < LONG_ROW:
        counts: Array = truths.sum(axis=1)
        return counts
    return np.array([np.count_nonzero(row) for row in truths])


def _bits(values: Array) -> Array:
    return values.view(f"i{values.dtype.itemsize}")


def _have_equal_bits(x: Array, y: Array) -> bool:
    return x.dtype == y.dtype and bool((_bits(x) == _bits(y)).all())


def _in_one_dtype(x: Array, y: Array) -> tuple[Array, Array]:
    """Return both in the coarser float dtype; an integer beside a float becomes float64."""
    dtype = _common_dtype(x.dtype, y.dtype)
    if dtype.kind in "iu":
        return x.astype(dtype), y.astype(dtype)
    x, y = (each if each.dtype == dtype else _widened(each).astype(dtype) for each in (x, y))
    return x, y


@cache
def _common_dtype(x: np.dtype[Any], y: np.dtype[Any]) -> np.dtype[Any]:
    are_integers = [each.kind in "biu" for each in (x, y)]
    if all(are_integers):
        return np.promote_types(x, y)
    if any(are_integers):
        return np.dtype(np.float64)
    return min(x, y, key=lambda dtype: int(ml_dtypes.finfo(dtype).nmant))


def _distances(x: Array, y: Array) -> Array:
    """Return the largest distance in each row, in units in the last place: (rows,) int64."""
    if x.dtype.kind in "iu":
        steps = _unsigned(np.maximum(x, y) - np.minimum(x, y))
    else:
        steps = _steps(_bits(x), _bits(y))
    farthest: Array = np.minimum(steps.max(axis=1).astype(np.uint64), LARGEST)
    return farthest


def _steps(x: Array, y: Array) -> Array:
    """Return how many floats lie from x to y, from their bits; both zeros are one float."""
    steps = _unsigned(np.abs(x - y))
    is_opposite = (x ^ y) < 0
    if is_opposite.any():
        magnitude = np.iinfo(x.dtype).max
        from_zero = (_unsigned(each[is_opposite] & magnitude) for each in (x, y))
        steps[is_opposite] = sum(from_zero)
    return steps


def _unsigned(values: Array) -> Array:
    return values.view(f"u{values.dtype.itemsize}")
