"""The second pass over a pair, made only when its counts are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.compare.dtypes import FLOAT64, steps, widened
from pytest_falsify.compare.tally import Tally, Tolerance, merge_tallies

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Array = NDArray[Any]

PASS = 1 << 16
"""Values looked at together."""
POWERS = np.uint64(1) << np.arange(63, dtype=np.uint64)
"""Where the buckets begin, but for the first, which holds the distance 0 alone."""
MANTISSA, BELOW_ONE = 52, 1022
"""The bits of a float64's mantissa, and the biased exponent of the floats just below 1."""


def tally(x: Array, y: Array, tolerances: Iterable[Tolerance] = ()) -> Tally:
    """Count what goes beyond each tolerance, and how many units in the last place pairs differ by.

    Args:
        x: the oracle's values: any dtype and shape that ``pair_sums`` measures.
        y: the subject's values, of the same shape.
        tolerances: which ones to count for.
    """
    wanted = tuple(tolerances)
    flat_x, flat_y = (np.ascontiguousarray(each).reshape(-1) for each in (x, y))
    return merge_tallies(
        _counted(flat_x[start : start + PASS], flat_y[start : start + PASS], wanted)
        for start in range(0, flat_x.size, PASS)
    )


def _counted(x: Array, y: Array, tolerances: tuple[Tolerance, ...]) -> Tally:
    with np.errstate(all="ignore"):
        wide_x, wide_y = widened(x, FLOAT64), widened(y, FLOAT64)
        is_finite = np.isfinite(wide_x) & np.isfinite(wide_y)
        difference = np.abs(wide_y - wide_x)
        difference[wide_x == wide_y] = 0
        magnitude = np.where(is_finite, np.abs(wide_x), 0)
        exceeds = {
            each: int(x.size - (difference <= each.atol + each.rtol * magnitude).sum())
            for each in tolerances
        }
        if not is_finite.all():
            x, y = x[is_finite], y[is_finite]
        ulps = np.bincount(_bit_lengths(steps(x, y)))
    return Tally(n=is_finite.size, ulps=tuple(ulps.tolist()), exceeds=exceeds)


def _bit_lengths(numbers: Array) -> Array:
    """Return how many binary digits each unsigned integer has; 0 has none."""
    if numbers.itemsize == POWERS.itemsize:
        places: Array = np.searchsorted(POWERS, numbers, side="right")
        return places
    exponents = numbers.astype(FLOAT64).view(np.int64) >> MANTISSA
    lengths: Array = np.maximum(exponents - BELOW_ONE, 0)
    return lengths
