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

from pytest_falsify.compare.pools import Pool, pools
from pytest_falsify.compare.resampling import draws, interval, quotient, scale_ratio
from pytest_falsify.stages.vocabulary import STAGES
from pytest_falsify.words import number_are, number_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pytest_falsify.compare.comparison import Comparison, SiteComparison
    from pytest_falsify.compare.rows import RowSums
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


class Judgement(Enum):
    """What a ratio says."""

    NOISE = "noise"
    BUG = "bug"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteNoise:
    """One site judged against its floor.

    Attributes:
        site: where to look; of a pool, the site of that row.
        error: the subject's relative L2 error.
        floor: the control's, but at least one rounding to the subject's dtype.
        ratio: error / floor; 0 where the subject is exact, infinite where it cannot be computed.
        low: the lower end of the ratio's interval.
        high: the upper end.
        row_ratio: the largest ratio of a single row to that row's floor.
        row_position: where that row is.
        scale: the factor by which the oracle fits the subject best; NaN where undefined.
        more_tokens: how many more tokens would decide, or None where tokens would not help.
        steps: how many decode steps were pooled; 1 is the site alone.
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
    steps: int
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

    The rows of one layer's stage are pooled over the decode steps: one step alone has too few. A
    pool is judged once, at the first site whose row is beyond the limit, or else at the worst row.

    Args:
        subject: the subject against the oracle.
        control: the control against the same oracle, on the same input.
        ratio: the largest ratio of the totals that is still noise.
        row_ratio: the largest ratio of a single row.
        seed: of the bootstrap; the same seed gives the same judgement.

    Returns:
        One judgement for each site of the prefill and each pool, in causal order.
    """
    theirs = {each.site: each for each in control.sites}
    found = (
        _judge(
            pool, Pool.of([theirs.get(each.site) for each in pool.steps]), ratio, row_ratio, seed
        )
        for pool in pools(subject.sites)
    )
    return tuple(sorted(found, key=lambda each: each.site.causal_key))


def judge_site(
    subject: SiteComparison,
    control: SiteComparison | None,
    *,
    ratio: float = RATIO,
    row_ratio: float = ROW_RATIO,
    seed: int = 0,
) -> SiteNoise:
    """Judge one site alone: see ``judge_noise``."""
    return _judge(Pool.of([subject]), Pool.of([control]), ratio, row_ratio, seed)


def _judge(subject: Pool, control: Pool, ratio: float, row_ratio: float, seed: int) -> SiteNoise:
    if subject.sizes != control.sizes:
        return _judged(subject, Judgement.INCONCLUSIVE, "the control does not show this site")
    if subject.total.is_empty:
        return _judged(subject, Judgement.INCONCLUSIVE, "nothing was compared")
    if not subject.total.is_sound:
        return _judged(subject, Judgement.BUG, "NaN or unmatched infinite values")
    if STAGES[subject.steps[0].site.stage].is_index:
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


def _judged_ids(subject: Pool, control: Pool) -> SiteNoise:
    mismatched, expected = subject.total.mismatched, control.total.mismatched
    if mismatched == 0:
        return _judged(subject, Judgement.NOISE, "every id is the oracle's", ratio=0.0)
    differing = number_of(mismatched, "id differs", "ids differ")
    if expected == 0:
        return _judged(subject, Judgement.BUG, f"{differing}, none of the control's do")
    reason = f"{differing}, and {expected} of the control's: judge them by their margins"
    return _judged(subject, Judgement.INCONCLUSIVE, reason)


def _judged_ratio(
    subject: Pool, control: Pool, ratio: float, row_ratio: float, seed: int
) -> SiteNoise:
    unit = unit_roundoff(subject.steps[0].dtypes[0])
    floor = max(control.total.rel_l2, unit)
    rows = _row_ratios(subject.rows, control.rows, unit)
    drawn = draws(len(rows), seed)
    low, high = interval(subject.rows, control.rows, unit, drawn)
    observed = _Observed(
        ratio=quotient(subject.total.rel_l2, floor),
        low=low,
        high=high,
        row_ratio=float(rows.max()),
        scale_ratio=scale_ratio(subject.rows, control.rows, unit, drawn),
        scale=subject.total.scale,
        rows=len(rows),
    )
    judgement, reason = _decide(observed, ratio, row_ratio)
    is_beyond = rows > row_ratio
    step, row = subject.place(int(is_beyond.argmax() if is_beyond.any() else rows.argmax()))
    is_open = judgement is Judgement.INCONCLUSIVE
    return SiteNoise(
        site=step.site,
        judgement=judgement,
        error=subject.total.rel_l2,
        floor=floor,
        ratio=observed.ratio,
        low=low,
        high=high,
        row_ratio=observed.row_ratio,
        row_position=step.row_position(row),
        scale=observed.scale,
        more_tokens=_more_tokens(observed, ratio, subject) if is_open else None,
        steps=len(subject.steps),
        reason=_over_steps(subject, reason),
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
        return Judgement.INCONCLUSIVE, f"{number_are(observed.rows, 'row')} too few to tell"
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


def _row_ratios(subject: RowSums, control: RowSums, unit: float) -> Array:
    """Return each row's error over its floor.

    The floor of a row is its own error in the control, but at least what is usual among the rows,
    since a single error can be small by chance.
    """
    norms = np.sqrt(control.column("sum_x2"))
    usual = max(float(np.median(control.rel_l2())), unit)
    usual = usual if math.isfinite(usual) else unit
    floors = np.maximum(np.sqrt(control.column("sum_d2")), usual * norms)
    errors = np.sqrt(subject.column("sum_d2"))
    ratios = np.full(len(errors), np.inf)
    np.divide(errors, floors, out=ratios, where=floors > 0)
    ratios[errors == 0] = 0.0
    return ratios


def _more_tokens(observed: _Observed, ratio: float, subject: Pool) -> int | None:
    """Return how many more tokens would bring the limit out of the interval.

    An interval shrinks as the root of the number of rows.
    """
    tokens = max(1, sum(len(each.positions) for each in subject.steps))
    rows_each = max(1, observed.rows // tokens)
    if observed.rows < FEWEST_ROWS:
        return math.ceil((FEWEST_ROWS - observed.rows) / rows_each)
    is_below = observed.ratio < ratio
    reach = observed.high - observed.ratio if is_below else observed.ratio - observed.low
    distance = abs(ratio - observed.ratio)
    if distance == 0 or not math.isfinite(reach):
        return None
    return max(1, math.ceil(tokens * ((reach / distance) ** 2 - 1)))


def _judged(
    subject: Pool, judgement: Judgement, reason: str, *, ratio: float = math.inf
) -> SiteNoise:
    """Return what needs no ratio, at the worst step; a step that is not sound is the worst."""
    step = max(subject.steps, key=lambda each: each.total.rel_l2)
    return SiteNoise(
        site=step.site,
        judgement=judgement,
        error=subject.total.rel_l2,
        floor=0.0,
        ratio=ratio,
        low=ratio,
        high=ratio,
        row_ratio=ratio,
        row_position=step.worst_position,
        scale=subject.total.scale,
        more_tokens=None,
        steps=len(subject.steps),
        reason=_over_steps(subject, reason),
    )


def _over_steps(subject: Pool, reason: str) -> str:
    steps = len(subject.steps)
    return f"over {steps} decode steps: {reason}" if steps > 1 else reason
