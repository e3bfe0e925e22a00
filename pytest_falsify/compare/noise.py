"""Telling a fault from noise: the subject's error against that of a control.

The control is known-good code at the subject's precision. Its error against the oracle is the
floor of a site; the subject is judged by the ratio of its own error to that floor, with a bootstrap
interval over the rows; row by row, because one bad token hides in a total; and by its scale,
because a factor near 1 hides in a relative error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

from pytest_falsify.stages.vocabulary import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pytest_falsify.compare.comparison import Comparison, SiteComparison
    from pytest_falsify.stages.vocabulary import Site

    Array = NDArray[Any]

RATIO = 3.0
"""A subject may be this many times as far from the oracle as the control is: torch's `same()` in
its fp64 rule allows 2 for float32 and 3 for 16 bits."""
ROW_RATIO = 10.0
"""The same for one row: a single row varies more than a total."""
FEWEST_ROWS = 8
"""With fewer rows a bootstrap interval is far too narrow to believe."""
GROSS = 10.0
"""So many times beyond the ratio, a few rows are enough to tell."""
RESAMPLES = 1000
MOST_GROUPS = 512
CONFIDENCE = 0.95


class Judgement(Enum):
    """What a ratio says."""

    NOISE = "noise"
    BUG = "bug"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteNoise:
    """One site judged against its floor.

    Attributes:
        error: the subject's relative L2 error.
        floor: the control's, but at least one rounding to the subject's dtype.
        ratio: error / floor; 0 where the subject is exact, infinite where it cannot be computed.
        low: the lower end of the ratio's interval.
        high: the upper end.
        row_ratio: the largest ratio of a single row to that row's floor.
        row_position: where that row is.
        scale: the factor by which the oracle fits the subject best; NaN where undefined.
        more_tokens: how many more tokens would decide, or None where tokens would not help.
        reason: one sentence.
    """

    site: Site
    judgement: Judgement
    error: float
    floor: float
    ratio: float
    low: float
    high: float
    row_ratio: float
    row_position: Mapping[str, int]
    scale: float
    more_tokens: int | None
    reason: str


def judge_noise(
    subject: Comparison,
    control: Comparison,
    *,
    ratio: float = RATIO,
    row_ratio: float = ROW_RATIO,
    seed: int = 0,
) -> tuple[SiteNoise, ...]:
    """Judge every site of the subject's comparison against the control's.

    Args:
        subject: the subject against the oracle.
        control: the control against the same oracle, on the same input.
        ratio: the largest ratio of the totals that is still noise.
        row_ratio: the largest ratio of a single row.
        seed: of the bootstrap; the same seed gives the same judgement.
    """
    return tuple(
        judge_site(each, control.at(each.site), ratio=ratio, row_ratio=row_ratio, seed=seed)
        for each in subject.sites
    )


def judge_site(
    subject: SiteComparison,
    control: SiteComparison | None,
    *,
    ratio: float = RATIO,
    row_ratio: float = ROW_RATIO,
    seed: int = 0,
) -> SiteNoise:
    """Judge one site: see ``judge_noise``."""
    if control is None or len(control.rows) != len(subject.rows):
        return _judged(subject, Judgement.INCONCLUSIVE, "the control does not show this site")
    if subject.total.is_empty:
        return _judged(subject, Judgement.INCONCLUSIVE, "nothing was compared")
    if not subject.total.is_sound:
        return _judged(subject, Judgement.BUG, "NaN or unmatched infinite values")
    if STAGES[subject.site.stage].is_index:
        return _judged_ids(subject, control)
    if not control.total.is_sound:
        return _judged(subject, Judgement.INCONCLUSIVE, "the control itself is not finite")
    return _judged_ratio(subject, control, ratio, row_ratio, seed)


def rounded_at_random(values: Array, dtype: Any, *, seed: int) -> Array:
    """Return values disturbed as by one rounding to a dtype: Monte Carlo arithmetic.

    Where no control exists, an oracle that computes on with such values shows how far mere rounding
    carries. Each value is multiplied by 1 + u e, with u the dtype's unit roundoff and e uniform in
    [-1, 1] (Parker, Monte Carlo Arithmetic, 1997).
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    disturbance = generator.uniform(-1.0, 1.0, values.shape) * unit_roundoff(dtype)
    disturbed: Array = (values.astype(np.float64) * (1.0 + disturbance)).astype(values.dtype)
    return disturbed


def unit_roundoff(dtype: Any) -> float:
    """Return the largest relative error of one rounding to a float dtype; 0 for integers."""
    dtype = np.dtype(dtype)
    return 0.0 if dtype.kind in "biu" else float(ml_dtypes.finfo(dtype).eps) / 2


def _judged_ids(subject: SiteComparison, control: SiteComparison) -> SiteNoise:
    mismatched, expected = subject.total.mismatched, control.total.mismatched
    if mismatched == 0:
        return _judged(subject, Judgement.NOISE, "every id is the oracle's", ratio=0.0)
    if expected == 0:
        return _judged(subject, Judgement.BUG, f"{mismatched} ids differ, none of the control's do")
    reason = (
        f"{mismatched} ids differ, and {expected} of the control's: judge them by their margins"
    )
    return _judged(subject, Judgement.INCONCLUSIVE, reason)


def _judged_ratio(
    subject: SiteComparison, control: SiteComparison, ratio: float, row_ratio: float, seed: int
) -> SiteNoise:
    unit = unit_roundoff(subject.dtypes[0])
    floor = max(control.total.rel_l2, unit)
    rows = _row_ratios(subject, control, unit)
    row = int(rows.argmax())
    drawn = _draws(len(subject.rows), seed)
    low, high = _interval(subject, control, unit, drawn)
    observed = _Observed(
        ratio=_quotient(subject.total.rel_l2, floor),
        low=low,
        high=high,
        row_ratio=float(rows[row]),
        scale_ratio=_scale_ratio(subject, control, unit, drawn),
        scale=subject.total.scale,
        rows=len(rows),
    )
    judgement, reason = _decide(observed, ratio, row_ratio)
    return SiteNoise(
        site=subject.site,
        judgement=judgement,
        error=subject.total.rel_l2,
        floor=floor,
        ratio=observed.ratio,
        low=low,
        high=high,
        row_ratio=observed.row_ratio,
        row_position=subject.row_position(row),
        scale=observed.scale,
        more_tokens=_more_tokens(observed, ratio, subject)
        if judgement is Judgement.INCONCLUSIVE
        else None,
        reason=reason,
    )


class _Observed(NamedTuple):
    """The numbers that a judgement is made from."""

    ratio: float
    low: float
    high: float
    row_ratio: float
    scale_ratio: float
    scale: float
    rows: int


def _decide(observed: _Observed, ratio: float, row_ratio: float) -> tuple[Judgement, str]:
    if observed.ratio == 0:
        return Judgement.NOISE, "equal to the oracle"
    if reason := _beyond(observed, ratio, row_ratio):
        return Judgement.BUG, reason
    if observed.rows < FEWEST_ROWS:
        return Judgement.INCONCLUSIVE, f"{observed.rows} rows are too few to tell"
    if observed.high <= ratio:
        return Judgement.NOISE, f"{observed.ratio:.3g} times its floor (limit {ratio:g})"
    between = f"between {observed.low:.3g} and {observed.high:.3g} times its floor"
    return Judgement.INCONCLUSIVE, f"{between} (limit {ratio:g})"


def _beyond(observed: _Observed, ratio: float, row_ratio: float) -> str:
    """Return why it cannot be noise, or nothing."""
    has_enough = observed.rows >= FEWEST_ROWS
    if observed.row_ratio > row_ratio:
        return f"one row is {observed.row_ratio:.3g} times its floor (limit {row_ratio:g})"
    if has_enough and observed.scale_ratio > ratio:
        return f"scaled by {observed.scale:.4g}, which noise does not do"
    if observed.ratio > ratio * GROSS or (has_enough and observed.low > ratio):
        return f"{observed.ratio:.3g} times its floor (limit {ratio:g})"
    return ""


def _row_ratios(subject: SiteComparison, control: SiteComparison, unit: float) -> Array:
    """Return each row's error over its floor.

    The floor of a row is its own error in the control, but at least what is usual among the rows,
    since a single error can be small by chance.
    """
    norms = np.sqrt(control.rows.column("sum_x2"))
    usual = max(float(np.median(control.rows.rel_l2())), unit)
    usual = usual if math.isfinite(usual) else unit
    floors = np.maximum(np.sqrt(control.rows.column("sum_d2")), usual * norms)
    errors = np.sqrt(subject.rows.column("sum_d2"))
    ratios = np.full(len(errors), np.inf)
    np.divide(errors, floors, out=ratios, where=floors > 0)
    ratios[errors == 0] = 0.0
    return ratios


def _draws(rows: int, seed: int) -> Array:
    """Return how often each group of rows is drawn in each resample: (RESAMPLES, groups)."""
    groups = min(rows, MOST_GROUPS)
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn: Array = generator.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    return drawn


def _interval(
    subject: SiteComparison, control: SiteComparison, unit: float, drawn: Array
) -> tuple[float, float]:
    """Return the bootstrap interval of the ratio of the totals, resampling groups of rows."""
    errors = drawn @ _grouped(subject.rows.column("sum_d2"))
    floors = drawn @ _grouped(control.rows.column("sum_d2"))
    lowest = np.maximum(floors, unit**2 * (drawn @ _grouped(control.rows.column("sum_x2"))))
    ratios = np.full(len(drawn), np.inf)
    np.divide(errors, lowest, out=ratios, where=lowest > 0)
    ratios[errors == 0] = 0.0
    low, high = np.sqrt(_ends(ratios))
    return float(low), float(high)


def _scale_ratio(
    subject: SiteComparison, control: SiteComparison, unit: float, drawn: Array
) -> float:
    """Return how many times farther from 1 the subject's best-fit scale is than the control's.

    Rounding has no direction, so the scale of honest noise stays within a small part of its size: a
    factor that hides in the relative error shows here. Both are taken where their intervals favour
    the subject.
    """
    squares = drawn @ _grouped(control.rows.column("sum_x2"))
    if not squares.all():
        return 0.0
    mine, theirs = (
        _ends(drawn @ _grouped(each.rows.column("sum_xd")) / squares) for each in (subject, control)
    )
    nearest = 0.0 if mine[0] <= 0 <= mine[1] else np.abs(mine).min()
    return _quotient(float(nearest), max(float(np.abs(theirs).max()), unit))


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


def _more_tokens(observed: _Observed, ratio: float, site: SiteComparison) -> int | None:
    """Return how many more tokens would bring the limit out of the interval.

    An interval shrinks as the root of the number of rows.
    """
    tokens = max(1, len(site.positions))
    rows_each = max(1, len(site.rows) // tokens)
    if len(site.rows) < FEWEST_ROWS:
        return math.ceil((FEWEST_ROWS - len(site.rows)) / rows_each)
    is_below = observed.ratio < ratio
    reach = observed.high - observed.ratio if is_below else observed.ratio - observed.low
    distance = abs(ratio - observed.ratio)
    if distance == 0 or not math.isfinite(reach):
        return None
    return max(1, math.ceil(tokens * ((reach / distance) ** 2 - 1)))


def _quotient(error: float, floor: float) -> float:
    if error == 0:
        return 0.0
    return error / floor if floor > 0 else math.inf


def _judged(
    subject: SiteComparison, judgement: Judgement, reason: str, *, ratio: float = math.inf
) -> SiteNoise:
    return SiteNoise(
        site=subject.site,
        judgement=judgement,
        error=subject.total.rel_l2,
        floor=0.0,
        ratio=ratio,
        low=ratio,
        high=ratio,
        row_ratio=ratio,
        row_position=subject.worst_position,
        scale=subject.total.scale,
        more_tokens=None,
        reason=reason,
    )
