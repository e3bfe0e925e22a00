"""`parity`: the subject is within stated limits of the oracle at every site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.checks.base import PAIR, Captures, Compare, Request, by_input, pairs
from pytest_falsify.checks.verdict import (
    Judged,
    Verdict,
    coverage,
    inconclusive,
    nothing_compared,
    worst,
)
from pytest_falsify.compare.limits import (
    LIMITS_SCHEMA,
    Limits,
    parse_limits,
    smallest_passing,
    violations,
)
from pytest_falsify.ledger.evidence import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.compare.comparison import Comparison


class Parity:
    """Refuted by the first site, or the worst row of a site, beyond its limit."""

    kind: ClassVar[str] = "parity"
    parameters: ClassVar[Mapping[str, Any]] = {**PAIR, "expect": LIMITS_SCHEMA}
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle", "expect")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the subject and the oracle on every input."""
        return pairs(claim, claim.plan())

    def judge(self, claim: Claim, captures: Captures, compare: Compare) -> Verdict:
        """Hold every site against the limits."""
        limits = parse_limits(claim.parameter("expect"))
        judged = tuple(
            _judged(name, compare(runs["subject", 0], runs["oracle", 0]), limits)
            for name, runs in by_input(captures).items()
        )
        if reason := nothing_compared(judged):
            return inconclusive(reason, judged)
        broken = [each for one in judged for each in one.violations]
        is_bit_equal = all(
            site.total.is_bit_equal for one in judged for site in one.comparison.sites
        )
        return Verdict(
            outcome=Outcome.REFUTED if broken else Outcome.HELD,
            reasons=(_reason(judged),),
            # No control was measured: these limits are somebody's word, and say so.
            observed={
                "bit_equal": is_bit_equal,
                "calibration": "uncalibrated",
                "worst": worst(judged),
            },
            coverage=coverage(captures.values()),
            judged=judged,
        )


def _judged(label: str, comparison: Comparison, limits: Limits) -> Judged:
    broken = violations(comparison, limits)
    advice = smallest_passing(comparison, limits) if broken else ""
    return Judged(label=label, comparison=comparison, violations=broken, advice=str(advice))


def _reason(judged: tuple[Judged, ...]) -> str:
    broken = [each for one in judged for each in one.violations]
    if not broken:
        sites = len({site.site for one in judged for site in one.comparison.sites})
        return f"{sites} sites are within their limits"
    beyond = len({each.site for each in broken})
    return f"{beyond} sites are beyond their limits; the first is {broken[0]}"
