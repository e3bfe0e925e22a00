"""Resampling rows: how far the ratio of a pair of errors may be from the one observed."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_falsify.compare.rows import RowSums

    Array = NDArray[Any]

RESAMPLES = 1000
MOST_GROUPS = 512
CONFIDENCE = 0.95


@lru_cache(maxsize=8)
def draws(rows: int, seed: int) -> Array:
    """Return how often each group of rows is drawn in each resample: (RESAMPLES, groups)."""
    groups = min(rows, MOST_GROUPS)
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn: Array = generator.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    drawn.flags.writeable = False  # it is kept: sites of one shape are drawn alike
    return drawn


def interval(subject: RowSums, control: RowSums, unit: float, drawn: Array) -> tuple[float, float]:
    """Return the bootstrap interval of the ratio of the totals, resampling groups of rows."""
    errors = drawn @ _grouped(subject.column("sum_d2"))
    floors = drawn @ _grouped(control.column("sum_d2"))
    lowest = np.maximum(floors, unit**2 * (drawn @ _grouped(control.column("sum_x2"))))
    ratios = np.full(len(drawn), np.inf)
    np.divide(errors, lowest, out=ratios, where=lowest > 0)
    ratios[errors == 0] = 0.0
    low, high = np.sqrt(_ends(ratios))
    return float(low), float(high)


def scale_ratio(subject: RowSums, control: RowSums, unit: float, drawn: Array) -> float:
    """Return how many times farther from 1 the subject's best-fit scale is than the control's.

    Rounding has no direction, so the scale of honest noise stays within a small part of its size: a
    factor that hides in the relative error shows here. Both are taken where their intervals favour
    the subject.
    """
    squares = drawn @ _grouped(control.column("sum_x2"))
    if not squares.all():
        return 0.0
    mine, theirs = (
        _ends(drawn @ _grouped(each.column("sum_xd")) / squares) for each in (subject, control)
    )
    nearest = 0.0 if mine[0] <= 0 <= mine[1] else np.abs(mine).min()
    return quotient(float(nearest), max(float(np.abs(theirs).max()), unit))


def _ends(values: Array) -> Array:
    """Return the two ends of the middle ``CONFIDENCE`` of some values."""
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(values, [tail, 1 - tail], method="nearest")


def _grouped(sums: Array) -> Array:
    """Return the sums of at most ``MOST_GROUPS`` groups of neighbouring rows."""
    groups = min(len(sums), MOST_GROUPS)
    starts = np.arange(groups) * len(sums) // groups
    grouped: Array = np.add.reduceat(sums, starts)
    return grouped


def quotient(error: float, floor: float) -> float:
    """Return error / floor; 0 for no error, infinite beyond a floor of 0."""
    if error == 0:
        return 0.0
    return error / floor if floor > 0 else math.inf
