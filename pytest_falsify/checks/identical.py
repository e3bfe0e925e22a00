"""`identical`: every tensor of the subject has the oracle's bits."""

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
from pytest_falsify.compare.limits import Violation, parse_limits, violations
from pytest_falsify.ledger.evidence import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.checks.claim import Claim

BITS = parse_limits({"mismatched": {"max": 0}})


class Identical:
    """Refuted by the first bit that differs."""

    kind: ClassVar[str] = "identical"
    parameters: ClassVar[Mapping[str, Any]] = PAIR
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the subject and the oracle on every input."""
        return pairs(claim, claim.plan())

    def judge(self, _claim: Claim, captures: Captures, compare: Compare) -> Verdict:
        """Compare bits."""
        judged = tuple(
            judge_bits(name, compare(runs["subject", 0], runs["oracle", 0]))
            for name, runs in by_input(captures).items()
        )
        return bitwise_verdict(judged, captures, "the oracle's")


def judge_bits(label: str, comparison: Any) -> Judged:
    """Return a comparison with every site whose bits differ marked."""
    return Judged(label=label, comparison=comparison, violations=violations(comparison, BITS))


def bitwise_verdict(judged: tuple[Judged, ...], captures: Captures, whose: str) -> Verdict:
    """Return the verdict of comparisons that allow no bit to differ."""
    if reason := nothing_compared(judged):
        return inconclusive(reason, judged)
    broken: list[Violation] = [each for one in judged for each in one.violations]
    observed = {"bit_equal": not broken, "worst": worst(judged)}
    if broken:
        first = broken[0].site
        reason = f"{first} is the first of {len(broken)} sites whose bits are not {whose}"
    else:
        reason = f"every bit is {whose}"
    return Verdict(
        outcome=Outcome.REFUTED if broken else Outcome.HELD,
        reasons=(reason,),
        observed=observed,
        coverage=coverage(captures.values()),
        judged=judged,
    )
