"""`differs`: two captures are not equal: a setting, a fault or a fix has an effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.checks.base import PAIR, Captures, Compare, Request, by_input, pairs
from pytest_falsify.checks.verdict import (
    Judged,
    Verdict,
    coverage,
    finite,
    inconclusive,
    nothing_compared,
)
from pytest_falsify.ledger.evidence import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.checks.claim import Claim


class Differs:
    """Refuted by the first site at which the subject is too near to the oracle."""

    kind: ClassVar[str] = "differs"
    parameters: ClassVar[Mapping[str, Any]] = {
        **PAIR,
        "by": {
            "description": "the relative L2 error that every site exceeds; 0 (any bit) by default",
            "type": "number",
            "minimum": 0,
        },
    }
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle", "stages")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the subject and the oracle on every input."""
        return pairs(claim, claim.plan())

    def judge(self, claim: Claim, captures: Captures, compare: Compare) -> Verdict:
        """Look for a site that is the same."""
        by = claim.parameter("by", 0)
        judged = tuple(
            Judged(label=name, comparison=compare(runs["subject", 0], runs["oracle", 0]))
            for name, runs in by_input(captures).items()
        )
        if reason := nothing_compared(judged):
            return inconclusive(reason, judged)
        sites = [site for one in judged for site in one.comparison.sites]
        if not all(site.total.is_sound for site in sites):
            return inconclusive("a capture is not finite: garbage differs from anything", judged)
        least = min(sites, key=lambda each: each.total.rel_l2)
        same = [
            each
            for each in sites
            if each.total.is_bit_equal or (by > 0 and each.total.rel_l2 <= by)
        ]
        observed = {"least": {"site": str(least.site), "rel_l2": finite(least.total.rel_l2)}}
        seen = coverage(captures.values())
        if same:
            reason = f"{same[0].site} differs by {same[0].total.rel_l2:.3g}, no more than {by:g}"
            return Verdict(
                outcome=Outcome.REFUTED,
                reasons=(reason,),
                observed=observed,
                coverage=seen,
                judged=judged,
            )
        return Verdict(
            outcome=Outcome.HELD,
            reasons=(f"{len(sites)} sites differ by more than {by:g}",),
            observed=observed,
            coverage=seen,
            judged=judged,
        )
