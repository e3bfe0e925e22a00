"""The same pass as in ``kernels``, compiled by numba: the optional part ``pytest-falsify[fast]``.

All sums are kept in float64. The loops go over the values in short blocks that stay in the first
cache, each loop simple enough to become vector instructions. Nothing depends on the number of rows
or threads, so neither do the bits of a row.
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
BLOCK = 1024
"""Two blocks of float32 values and one of differences take a quarter of a first-level cache."""
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
        wide,
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
    return values.view(f"u{values.dtype.itemsize}")


@in_any_order
def _add_block(x: Array, y: Array, sums: Array, differences: Array) -> None:
    """Add the values of a block to the sums of its row, and leave |d| behind."""
    x2 = y2 = d2 = abs_d = sum_d = xd = 0.0
    for i in range(x.size):
        a, b = np.float64(x[i]), np.float64(y[i])
        d = b - a
        x2 += a * a
        y2 += b * b
        d2 += d * d
        abs_d += abs(d)
        sum_d += d
        xd += a * d
    for i in range(x.size):
        differences[i] = abs(y[i] - x[i])
    sums[X2] += x2
    sums[Y2] += y2
    sums[D2] += d2
    sums[ABS_D] += abs_d
    sums[D] += sum_d
    sums[XD] += xd


@in_order
def _largest(bits: Array) -> Any:
    """Return the largest of the bits of floats that are not negative: it spells the largest."""
    largest = bits[0]
    for i in range(bits.size):
        largest = bits[i] if bits[i] > largest else largest  # noqa: FURB136 - becomes vector code
    return largest


@in_order
def _first(bits: Array, wanted: Any) -> int:
    place = 0
    while bits[place] != wanted:
        place += 1
    return place


@in_order
def _count_mismatches(x: Array, y: Array) -> int:
    count = np.uint32(0)
    for i in range(x.size):
        count = np.uint32(count + np.uint32(x[i] != y[i]))
    return int(count)


@in_order
def _farthest(x: Array, y: Array) -> Any:
    """Return the largest number of floats from one to another, from their bits.

    The bits are mapped to integers that are ordered as the floats are, both zeros to one. Each step
    is cast back to the bits' own width, or else it would be done, at half the speed, in 64 bits.
    """
    unsigned = x.dtype.type
    half = unsigned(1 << (8 * x.itemsize - 1))
    farthest = unsigned(0)
    for i in range(x.size):
        a = unsigned(x[i] + half) if x[i] < half else unsigned(unsigned(0) - x[i])
        b = unsigned(y[i] + half) if y[i] < half else unsigned(unsigned(0) - y[i])
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
        values: x and y: (rows, length) float32 or float64.
        marks: the bits whose mismatches count: (rows, length).
        steps: the bits whose distance counts: (rows, length).
        scratch: a block of floats, and the same memory as bits.
        facts: floats (len(rows.FLOATS), rows) and integers (len(rows.INTEGERS), rows).
    """
    x, y = values
    differences, bits = scratch
    floats, integers = facts
    sums = np.empty(len(floats))
    for row in range(len(x)):
        sums[:] = 0
        best, place, mismatched, farthest = np.int64(-1), 0, 0, np.uint64(0)
        for start in range(0, x.shape[1], BLOCK):
            stop = min(start + BLOCK, x.shape[1])
            _add_block(x[row, start:stop], y[row, start:stop], sums, differences)
            largest = _largest(bits[: stop - start])
            if np.int64(largest) > best:
                best = np.int64(largest)
                place = start + _first(bits, largest)
            mismatched += _count_mismatches(marks[0][row, start:stop], marks[1][row, start:stop])
            distance = np.uint64(_farthest(steps[0][row, start:stop], steps[1][row, start:stop]))
            farthest = max(farthest, distance)
        sums[MAX_ABS_D] = abs(np.float64(y[row, place]) - np.float64(x[row, place]))
        floats[:, row] = sums
        integers[MISMATCHED, row] = mismatched
        integers[MAX_ULP, row] = np.int64(min(farthest, LARGEST))
        integers[WHERE, row] = place
