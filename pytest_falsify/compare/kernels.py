"""One pass over a pair of tensors: everything that can be asked of it later, row by row.

The pass works on a few rows at a time, which stay in the processor's cache. Up to ``BLOCK`` values
of at most 32 bits are added in float32, as long as their squares keep to its range; all else, and
the sums of the blocks, in float64. The sums of a row depend on its values and its length alone:
not on the rows beside it, on how the tensor is cut, or on the number of threads.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_falsify.compare.device import pair_sums_on_device
from pytest_falsify.compare.dtypes import (
    FLOAT32,
    FLOAT64,
    bits,
    float_steps,
    is_measurable,
    is_narrow,
    steps,
    widened,
)
from pytest_falsify.compare.rows import (
    ABS_D,
    D2,
    FINITE,
    MAX_ABS_D,
    MAX_ULP,
    MISMATCHED,
    NONFINITE_MISMATCH,
    NONFINITE_X,
    NONFINITE_Y,
    WHERE,
    X2,
    XD,
    Y2,
    D,
    N,
    RowSums,
)
from pytest_falsify.compare.statistics import merge_all
from pytest_falsify.errors import AlignmentError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Never

    from numpy.typing import NDArray

    Array = NDArray[Any]

BLOCK = 8192
"""Values in one sum: few enough that float32 keeps its digits and no BLAS starts a thread."""
PASS = 32768
"""Values looked at together: few enough for the second-level cache."""
FAST_FROM = 1 << 18
"""Values from which the compiled pass, where it is installed, is worth its import. The size alone
decides, so that the same pair always gives the same bits."""
SMALLEST_NARROW_SQUARE, LARGEST_NARROW_SQUARE = 1e-28, 1e37
"""Outside of these a sum of squares in float32 has lost digits, and the row is done in float64."""
LONG_ROW = 512
LARGEST = np.uint64(2**63 - 1)


def pair_sums(x: Any, y: Any, *, row_length: int) -> RowSums:
    """Measure a pair of tensors of one shape.

    Args:
        x: the oracle's values: float64/32/16, bfloat16, fp8, integers or booleans, any shape; torch
            tensors are measured where they lie, see ``device``.
        y: the subject's values, of the same shape; the dtype may differ.
        row_length: how many consecutive values, in C order, make a row.

    Raises:
        AlignmentError: when the shapes differ, a row does not fit, or a dtype has no numbers.
    """
    if not isinstance(x, np.ndarray):
        return pair_sums_on_device(x, y, row_length=row_length)
    _refuse_unlike(x, y, row_length)
    flat_x, flat_y = (np.ascontiguousarray(each).reshape(-1) for each in (x, y))
    with np.errstate(all="ignore"):
        if row_length == flat_x.size <= BLOCK and (alone := _row_alone(flat_x, flat_y)) is not None:
            return alone
        sums = RowSums.zeros(flat_x.size // row_length, row_length)
        if (fast := _fast_pass(x, y)) is not None:
            fast(flat_x, flat_y, sums)
        elif row_length <= BLOCK:
            _measure_short_rows(flat_x, flat_y, sums)
        else:
            _measure_long_rows(flat_x, flat_y, sums)
    return sums


def _fast_pass(x: Array, y: Array) -> Callable[[Array, Array, RowSums], None] | None:
    if x.size < FAST_FROM or x.dtype.kind in "biu" or y.dtype.kind in "biu":
        return None
    return _compiled()


@cache
def _compiled() -> Callable[[Array, Array, RowSums], None] | None:
    """Return the compiled pass, or None where numba is not installed."""
    try:
        from pytest_falsify.compare.fast import measure
    except ImportError:
        return None
    return measure


class _Pair(NamedTuple):
    """A few rows, (rows, length) each, as they are and in the dtype to calculate in."""

    x: Array
    y: Array
    wide_x: Array
    wide_y: Array

    def mismatches(self) -> Array:
        """Return zero where the bits agree, another integer where they do not."""
        if self.x.dtype == self.y.dtype:
            return bits(self.x) ^ bits(self.y)
        return bits(self.wide_x) ^ bits(self.wide_y)


def _refuse_unlike(x: Array, y: Array, row_length: int) -> None:
    if x.shape != y.shape:
        _refuse("the shapes differ", x, y, "two tensors of one shape")
    if row_length < 1 or x.size % row_length:
        what = f"rows of {row_length} values do not fill the tensors"
        _refuse(what, x, y, "a row length that divides the number of values")
    if not (is_measurable(x.dtype) and is_measurable(y.dtype)):
        expected = "float64/32/16, bfloat16, fp8, integers or booleans"
        _refuse("a dtype that cannot be measured", x, y, expected)


def _refuse(what: str, x: Array, y: Array, expected: str) -> Never:
    msg = f"{what}: oracle {x.shape} {x.dtype}, subject {y.shape} {y.dtype}"
    raise AlignmentError(msg, expected=expected)


def _row_alone(x: Array, y: Array) -> RowSums | None:
    """Measure one row of floats: what ``_measure`` does, bit for bit, in a third of its calls.

    Args:
        x: (values,), any dtype.
        y: (values,), any dtype.

    Returns:
        None where the general way is needed: other dtypes, NaN, infinities, squares out of range.
    """
    if x.dtype != y.dtype or x.dtype.kind in "biu" or not is_narrow(x.dtype):
        return None
    bits_x, bits_y = bits(x), bits(y)
    differing = bits_x ^ bits_y
    wide_x, wide_y = widened(x, FLOAT32), widened(y, FLOAT32)
    d = wide_y - wide_x
    x2, y2, d2 = float(wide_x.dot(wide_x)), float(wide_y.dot(wide_y)), float(d.dot(d))
    if not all(SMALLEST_NARROW_SQUARE < each < LARGEST_NARROW_SQUARE for each in (x2, y2, d2)):
        return None
    ones = _ones(FLOAT32, x.size)[0]
    sum_d, sum_xd = float(d.dot(ones)), float(wide_x.dot(d))
    magnitude = np.abs(d, out=d)
    place = int(magnitude.argmax())
    largest = abs(float(wide_y[place]) - float(wide_x[place]))
    farthest = float_steps(bits_x, bits_y, differing)
    floats = [x2, y2, d2, float(magnitude.dot(ones)), sum_d + 0.0, sum_xd + 0.0, largest]
    integers = [x.size, x.size, 0, 0, 0, np.count_nonzero(differing), farthest.max(), place]
    return RowSums(
        row_length=x.size,
        floats=np.array(floats).reshape(-1, 1),
        integers=np.array(integers, np.int64).reshape(-1, 1),
    )


def _measure_short_rows(x: Array, y: Array, sums: RowSums) -> None:
    length = sums.row_length
    step = max(1, PASS // length)
    x, y = x.reshape(-1, length), y.reshape(-1, length)
    for start in range(0, len(sums), step):
        rows = slice(start, start + step)
        _measure(x[rows], y[rows], sums.floats[:, rows], sums.integers[:, rows])


def _measure_long_rows(x: Array, y: Array, sums: RowSums) -> None:
    length = sums.row_length
    for index in range(len(sums)):
        row = slice(index * length, (index + 1) * length)
        parts = [_segments(x[row], y[row], 0, length // BLOCK * BLOCK, BLOCK)]
        if length % BLOCK:
            parts.append(_segments(x[row], y[row], length // BLOCK * BLOCK, length, length % BLOCK))
        sums.store(index, merge_all(part.total() for part in parts))


def _segments(x: Array, y: Array, start: int, stop: int, length: int) -> RowSums:
    parts = RowSums.zeros((stop - start) // length, length)
    _measure_short_rows(x[start:stop], y[start:stop], parts)
    return parts


def _measure(x: Array, y: Array, floats: Array, integers: Array) -> None:
    """Fill in the facts of a few rows.

    Args:
        x: (rows, length), any dtype.
        y: (rows, length), any dtype.
        floats: (len(rows.FLOATS), rows), to be written.
        integers: (len(rows.INTEGERS), rows), zeros, to be written.
    """
    integers[N] = integers[FINITE] = x.shape[1]
    if not (is_narrow(x.dtype) and is_narrow(y.dtype)):
        measure_in_float64(x, y, floats, integers)
        return
    pair = _Pair(x, y, widened(x, FLOAT32), widened(y, FLOAT32))
    _measure_plainly(pair, floats, integers)
    squares = floats[: D2 + 1]
    if squares.min() > SMALLEST_NARROW_SQUARE and squares.max() < LARGEST_NARROW_SQUARE:
        return
    again = ~_is_in_range(floats)
    if again.any():
        some_floats, some_integers = floats[:, again], integers[:, again]
        measure_in_float64(x[again], y[again], some_floats, some_integers)
        floats[:, again], integers[:, again] = some_floats, some_integers


def measure_in_float64(x: Array, y: Array, floats: Array, integers: Array) -> None:
    """Fill in the facts of rows with any values, NaN and infinities among them."""
    pair = _Pair(x, y, widened(x, FLOAT64), widened(y, FLOAT64))
    is_finite_x, is_finite_y = np.isfinite(pair.wide_x), np.isfinite(pair.wide_y)
    is_finite = is_finite_x & is_finite_y
    if is_finite.all():
        _measure_plainly(pair, floats, integers)
        return
    is_stray = ~is_finite & ~(pair.wide_x == pair.wide_y)
    mismatched = _counts(pair.mismatches())
    without = _Pair(*(np.where(is_finite, each, each.dtype.type(0)) for each in pair))
    _measure_plainly(without, floats, integers)
    integers[MISMATCHED] = mismatched
    integers[FINITE] = is_finite.sum(axis=1)
    integers[NONFINITE_X] = x.shape[1] - is_finite_x.sum(axis=1)
    integers[NONFINITE_Y] = x.shape[1] - is_finite_y.sum(axis=1)
    integers[NONFINITE_MISMATCH] = is_stray.sum(axis=1)
    np.copyto(integers[WHERE], is_stray.argmax(axis=1), where=is_stray.any(axis=1))


def _measure_plainly(pair: _Pair, floats: Array, integers: Array) -> None:
    """Fill in the facts of rows without NaN and infinities."""
    wide_x, wide_y = pair.wide_x, pair.wide_y
    floats[X2] = np.vecdot(wide_x, wide_x)
    mismatches = pair.mismatches()
    integers[MISMATCHED] = _counts(mismatches)
    if not np.count_nonzero(integers[MISMATCHED]):
        floats[Y2] = floats[X2]
        floats[D2:] = 0
        integers[MISMATCHED:] = 0
        return
    d = wide_y - wide_x
    ones = _ones(d.dtype, d.shape[1])
    floats[Y2] = np.vecdot(wide_y, wide_y)
    floats[D2] = np.vecdot(d, d)
    floats[XD] = np.vecdot(wide_x, d)
    floats[D] = np.vecdot(d, ones)
    magnitude = np.abs(d, out=d)
    floats[ABS_D] = np.vecdot(magnitude, ones)
    places = integers[WHERE] = magnitude.argmax(axis=1)
    at = _starts(*d.shape) + places
    floats[MAX_ABS_D] = np.subtract(wide_y.take(at), wide_x.take(at), dtype=FLOAT64)
    np.abs(floats[MAX_ABS_D], out=floats[MAX_ABS_D])
    floats += 0.0  # a sum of zeros is 0, whichever sign the BLAS gives it
    integers[MAX_ULP] = _farthest(pair, mismatches)


def _is_in_range(floats: Array) -> NDArray[np.bool_]:
    """Tell of which rows the sums of squares in float32 have neither over- nor underflown."""
    squares = floats[: D2 + 1]
    is_plain = (squares > SMALLEST_NARROW_SQUARE) & (squares < LARGEST_NARROW_SQUARE)
    is_plain[D2] |= floats[MAX_ABS_D] == 0
    return np.asarray(is_plain.all(axis=0))


@lru_cache(maxsize=16)
def _ones(dtype: np.dtype[Any], length: int) -> Array:
    return np.ones((1, length), dtype)


@lru_cache(maxsize=16)
def _starts(rows: int, length: int) -> Array:
    return np.arange(rows) * length


def _counts(integers: Array) -> Any:
    """Return how many values of each row are not 0; counting a long row alone is much faster."""
    if len(integers) == 1:
        return np.count_nonzero(integers)
    if integers.shape[1] < LONG_ROW:
        return (integers != 0).sum(axis=1)
    return np.array([np.count_nonzero(row) for row in integers])


def _farthest(pair: _Pair, mismatches: Array) -> Array:
    """Return the largest distance in each row, in units in the last place: (rows,) int64."""
    farthest: Array = steps(pair.x, pair.y, mismatches).max(axis=1)
    return farthest if farthest.itemsize < LARGEST.itemsize else np.minimum(farthest, LARGEST)
