"""`identical`: every tensor of the subject has the oracle's bits."""

from __future__ import annotations

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
from pytest_falsify.checks.planting import Pair, plant
from pytest_falsify.checks.verdict import (
    Judged,
    Verdict,
    held,
    inconclusive,
    nothing_compared,
    refuted,
    worst,
)
from pytest_falsify.compare.limits import Violation, parse_limits, smallest_passing, violations
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.compare.comparison import Comparison

BITS = parse_limits({"mismatched": {"max": 0}})
TIGHTEST = parse_limits({"rel_l2": {"max": 0}, "worst_row": {"max": 0}})
"""The limits for which the smallest that would pass are told."""


class Identical:
    """Refuted by the first bit that differs."""

    kind: ClassVar[str] = "identical"
    parameters: ClassVar[Mapping[str, Any]] = {**PAIR, "decode_steps": DECODE_STEPS}
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the subject and the oracle on every input."""
        return pairs(claim, stages_plan(claim))

    def judge(self, _claim: Claim, captures: Captures, compare: Compare) -> Verdict:
        """Compare bits."""
        labelled = [
            (name, runs["subject", 0], runs["oracle", 0])
            for name, runs in by_input(captures).items()
        ]
        return bitwise_verdict(labelled, captures, compare, whose="the oracle's")


def bitwise_verdict(
    labelled: Sequence[tuple[str, Capture, Capture]],
    captures: Captures,
    compare: Compare,
    *,
    whose: str,
    fact: str = "bit_equal",
) -> Verdict:
    """Return the verdict on pairs in which no bit may differ.

    Args:
        labelled: what each pair is called, its subject, and what the subject must be.
        captures: all that was captured, for the coverage.
        compare: compares a pair.
        whose: whose bits they must be, in words.
        fact: what equality is recorded as; only ``bit_equal`` says that it is the oracle's.
    """
    judged = tuple(bitwise(label, compare(one, other)) for label, one, other in labelled)
    broken = [each for one in judged for each in one.violations]
    if not broken and (reason := nothing_compared(judged)):
        return inconclusive(reason, judged)
    observed = {fact: not broken, "worst": worst(judged)}
    if broken:
        sites = number_of(len({each.site for each in broken}), "site")
        reason = f"{broken[0].site} is the first of {sites} whose bits are not {whose}"
        return refuted([reason], captures, observed=observed, judged=judged)
    faults = plant(
        Pair(subject=one, oracle=other, compare=compare, refutes=_differs)
        for _, one, other in labelled
    )
    return held(f"every bit is {whose}", captures, observed=observed, faults=faults, judged=judged)


def bitwise(label: str, comparison: Comparison) -> Judged:
    """Mark every site that has other bits, with the limits of its error that would have passed."""
    broken = (*violations(comparison, BITS), *_other_dtypes(comparison))
    in_order = sorted(broken, key=lambda each: each.site.causal_key)
    advice = str(smallest_passing(comparison, TIGHTEST)) if broken else ""
    return Judged(label=label, comparison=comparison, violations=tuple(in_order), advice=advice)


def _other_dtypes(comparison: Comparison) -> Iterator[Violation]:
    """Yield the sites whose values are equal and whose bits are not, for they are wider."""
    for each in comparison.sites:
        if each.total.is_bit_equal and not each.is_identical:
            yield Violation(
                site=each.site,
                metric="mismatched",
                observed=float(each.total.n),
                limit=BITS.default[0],
                position={},
                reason="{} instead of {}".format(*each.dtypes),
            )


def _differs(comparison: Comparison) -> bool:
    return not all(each.is_identical for each in comparison.sites)
