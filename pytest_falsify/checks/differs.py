"""`differs`: two captures are not equal: a setting, a fault or a fix has an effect."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.checks.base import (
    DECODE_STEPS,
    PAIR,
    Captures,
    Compare,
    Request,
    by_input,
    pairs,
    stages_plan,
)
from pytest_falsify.checks.verdict import (
    Judged,
    Verdict,
    finite,
    held,
    inconclusive,
    nothing_compared,
    refuted,
)
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.compare.comparison import SiteComparison


class Differs:
    """Refuted by the first site at which the subject is too near to the oracle."""

    kind: ClassVar[str] = "differs"
    parameters: ClassVar[Mapping[str, Any]] = {
        **PAIR,
        "decode_steps": DECODE_STEPS,
        "by": {
            "description": "the relative L2 error that every site exceeds; 0 (any bit) by default",
            "type": "number",
            "minimum": 0,
        },
    }
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle", "stages")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the subject and the oracle on every input."""
        return pairs(claim, stages_plan(claim))

    def judge(self, claim: Claim, captures: Captures, compare: Compare) -> Verdict:
        """Look for a site that is the same."""
        by = claim.parameter("by", 0)
        runs = by_input(captures)
        judged = tuple(
            Judged(label=name, comparison=compare(each["subject", 0], each["oracle", 0]))
            for name, each in runs.items()
        )
        if reason := nothing_compared(judged):
            return inconclusive(reason, judged)
        sites = [site for one in judged for site in one.comparison.sites]
        if by == 0 and any(site.is_estimate for site in sites):
            reason = "a sketch does not tell whether any bit differs: say `by` how much"
            return inconclusive(reason, judged)
        if not all(site.total.is_sound for site in sites):
            return inconclusive("a capture is not finite: garbage differs from anything", judged)
        least = min(sites, key=lambda each: each.total.rel_l2)
        observed = {"least": {"site": str(least.site), "rel_l2": finite(least.total.rel_l2)}}
        if same := next((each for each in sites if _is_near(each, by)), None):
            reason = f"{same.site} differs by {same.total.rel_l2:.3g}, no more than {by:g}"
            return refuted([reason], captures, observed=observed, judged=judged)
        reason = f"{number_of(len(sites), 'site differs', 'sites differ')} by more than {by:g}"
        faults = _plant(runs.values(), compare, by)
        return held(reason, captures, observed=observed, faults=faults, judged=judged)


def _is_near(site: SiteComparison, by: float) -> bool:
    return site.total.is_bit_equal or (by > 0 and site.total.rel_l2 <= by)


def _plant(
    runs: Iterable[Mapping[tuple[str, int], Capture]], compare: Compare, by: float
) -> dict[str, int]:
    """Plant the oracle's own tensor at one site after the other; each must be found too near."""
    planted = caught = 0
    for each in runs:
        both = each["subject", 0], each["oracle", 0]
        for site, tensor in both[1].tensors.items():
            sides = (replace(side, tensors={site: tensor}, missing=()) for side in both)
            planted += 1
            caught += any(_is_near(found, by) for found in compare(*sides).sites)
    return {"planted": planted, "caught": caught}
