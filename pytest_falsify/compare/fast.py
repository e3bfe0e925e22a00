"""The same pass as in ``kernels``, compiled by numba: the optional part ``pytest-falsify[fast]``.

All sums are kept in float64. The loops go over the values in short blocks that stay in the first
cache, each loop simple enough to become vector instructions. Nothing depends on the number of rows
or threads, so neither do the bits of a row.

The loops share whole flat arrays and take a place and a count in them: a slice for each of them
costs as much as a row of 64 values does. Both are unsigned, since a signed index may count from the
end, and asking whether it does keeps the vector instructions away.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.compare import kernels
from pytest_falsify.compare.dtypes import FLOAT32, FLOAT64, in_one_dtype, is_narrow, widened
from pytest_falsify.compare.rows import (
    ABS_D,
    D2,
    FINITE,
    MAX_ABS_D,
    MAX_ULP,
    MISMATCHED,
    WHERE,
    X2,
    XD,
    Y2,
    D,
    N,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pytest_falsify.compare.rows import RowSums

    Array = NDArray[Any]

numba: Any = import_module("numba")

in_order: Callable[[Any], Any] = numba.njit(nogil=True, cache=True)
in_any_order: Callable[[Any], Any] = numba.njit(
    fastmath={"reassoc", "contract", "nsz"}, nogil=True, cache=True
)
"""Sums may be spread over vector lanes; NaN and infinities keep their meaning."""

LARGEST = np.uint64(2**63 - 1)
BLOCK = 512
"""Two blocks of float32 values and one of differences take an eighth of a first-level cache."""
CHUNK = 1 << 16
"""Values to widen at once, where that must be done before the pass."""


def measure(x: Array, y: Array, sums: RowSums) -> None:
    """Fill in the sums of a pair.

    Args:
        x: the oracle's values in C order: (values,), any float dtype that ``kernels`` knows.
        y: the subject's values: (values,).
        sums: to be written.
    """
    x, y = x.reshape(-1, sums.row_length), y.reshape(-1, sums.row_length)
    is_ready = x.dtype == y.dtype and x.dtype in {FLOAT32, FLOAT64}
    step = len(x) if is_ready else max(1, CHUNK // sums.row_length)
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        _measure(x[rows], y[rows], sums.floats[:, rows], sums.integers[:, rows])


def _measure(x: Array, y: Array, floats: Array, integers: Array) -> None:
    wide_dtype = np.promote_types(_wide_dtype(x), _wide_dtype(y))
    wide = widened(x, wide_dtype), widened(y, wide_dtype)
    marks = (x, y) if x.dtype == y.dtype else wide
    differences = np.empty(BLOCK, wide_dtype)
    integers[N] = integers[FINITE] = x.shape[1]
    _measure_rows(
        tuple(each.reshape(-1) for each in wide),
        tuple(map(_bits, marks)),
        tuple(map(_bits, in_one_dtype(x, y))),
        (differences, _bits(differences)),
        (floats, integers),
    )
    again = ~np.isfinite(floats[X2] + floats[Y2])
    if again.any():
        some_floats, some_integers = floats[:, again], integers[:, again]
        kernels.measure_in_float64(x[again], y[again], some_floats, some_integers)
        floats[:, again], integers[:, again] = some_floats, some_integers


def _wide_dtype(values: Array) -> np.dtype[Any]:
    return FLOAT32 if is_narrow(values.dtype) else FLOAT64


def _bits(values: Array) -> Array:
    return values.reshape(-1).view(f"u{values.dtype.itemsize}")


@in_any_order
def _sums(x: Array, y: Array, start: Any, count: Any) -> tuple[float, ...]:
    """Return the sums of a block, in the order of ``rows.SUMS``."""
    x2 = y2 = d2 = abs_d = sum_d = xd = 0.0
    for i in range(count):
        a, b = np.float64(x[start + i]), np.float64(y[start + i])
        d = b - a
        x2 += a * a
        y2 += b * b
        d2 += d * d
        abs_d += abs(d)
        sum_d += d
        xd += a * d
    return x2, y2, d2, abs_d, sum_d, xd


@in_order
def _differ(x: Array, y: Array, start: Any, count: Any, differences: Array) -> None:
    """Write |y - x| of a block."""
    for i in range(count):
        differences[i] = abs(y[start + i] - x[start + i])


@in_order
def _largest(bits: Array, count: Any) -> Any:
    """Return the largest of the bits of floats that are not negative: it spells the largest."""
    largest = bits[0]
    for i in range(count):
        largest = bits[i] if bits[i] > largest else largest  # noqa: FURB136 - becomes vector code
    return largest


@in_order
def _first(bits: Array, wanted: Any, count: Any) -> int:
    """Return where some bits first stand; without a way out of the loop it is vector code."""
    first = np.uint32(count)
    for i in range(count):
        place = np.uint32(i) if bits[i] == wanted else np.uint32(count)
        first = place if place < first else first  # noqa: FURB136 - becomes vector code
    return int(first)


@in_order
def _mismatched(x: Array, y: Array, start: Any, count: Any) -> int:
    mismatched = np.uint32(0)
    for i in range(count):
        mismatched = np.uint32(mismatched + np.uint32(x[start + i] != y[start + i]))
    return int(mismatched)


@in_order
def _farthest(x: Array, y: Array, start: Any, count: Any) -> Any:
    """Return the largest number of floats from one to another, from their bits.

    The bits are mapped to integers that are ordered as the floats are, both zeros to one. Each step
    is cast back to the bits' own width, or else it would be done, at half the speed, in 64 bits.
    """
    unsigned = x.dtype.type
    half = unsigned(1 << (8 * x.itemsize - 1))
    farthest = unsigned(0)
    for i in range(count):
        p, q = x[start + i], y[start + i]
        a = unsigned(p + half) if p < half else unsigned(unsigned(0) - p)
        b = unsigned(q + half) if q < half else unsigned(unsigned(0) - q)
        steps = unsigned(a - b) if a > b else unsigned(b - a)
        farthest = steps if steps > farthest else farthest  # noqa: FURB136 - becomes vector code
    return farthest


@in_order
def _measure_rows(
    values: tuple[Array, Array],
    marks: tuple[Array, Array],
    steps: tuple[Array, Array],
    scratch: tuple[Array, Array],
    facts: tuple[Array, Array],
) -> None:
    """Fill in the facts of rows; those of rows that are not finite have to be done again.

    Args:
        values: x and y: (rows * length,) float32 or float64.
        marks: the bits whose mismatches count: (rows * length,).
        steps: the bits whose distance counts: (rows * length,).
        scratch: a block of floats, and the same memory as bits.
        facts: floats (len(rows.FLOATS), rows) and integers (len(rows.INTEGERS), rows).
    """
    x, y = values
    differences, bits = scratch
    floats, integers = facts
    length = x.size // floats.shape[1]
    for row in range(floats.shape[1]):
        x2 = y2 = d2 = abs_d = sum_d = xd = 0.0
        best, place, mismatched, farthest = np.int64(-1), 0, np.int64(0), np.uint64(0)
        for begin in range(row * length, (row + 1) * length, BLOCK):
            start, count = np.uint64(begin), np.uint64(min(BLOCK, (row + 1) * length - begin))
            part = _sums(x, y, start, count)
            x2 += part[0]
            y2 += part[1]
            d2 += part[2]
            abs_d += part[3]
            sum_d += part[4]
            xd += part[5]
            _differ(x, y, start, count, differences)
            largest = _largest(bits, count)
            if np.int64(largest) > best:
                best, place = np.int64(largest), begin + _first(bits, largest, count)
            mismatched += np.int64(_mismatched(marks[0], marks[1], start, count))
            distance = np.uint64(_farthest(steps[0], steps[1], start, count))
            farthest = max(farthest, distance)
        floats[X2, row], floats[Y2, row], floats[D2, row] = x2, y2, d2
        floats[ABS_D, row], floats[D, row], floats[XD, row] = abs_d, sum_d, xd
        floats[MAX_ABS_D, row] = abs(np.float64(y[place]) - np.float64(x[place]))
        integers[MISMATCHED, row] = mismatched
        integers[MAX_ULP, row] = np.int64(min(farthest, LARGEST))
        integers[WHERE, row] = place - row * length
