"""`parity`: the subject is as near to the oracle as it has to be, at every site and in every row.

How near is measured by a control (``noise:``), stated by limits (``expect:``), or both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pytest_falsify.checks.base import (
    CAPTURE_NAME,
    DECODE_STEPS,
    PAIR,
    Captures,
    Compare,
    Request,
    by_input,
    control_requests,
    pairs,
    stages_plan,
)
from pytest_falsify.checks.planting import Pair, plant
from pytest_falsify.checks.rule import (
    MEASURED,
    UNCALIBRATED,
    Rule,
    conclusion,
    is_estimated,
    is_measured,
)
from pytest_falsify.checks.verdict import Verdict, finite, held, inconclusive, refuted, worst
from pytest_falsify.compare.comparison import counting
from pytest_falsify.compare.limits import LIMITS_SCHEMA, Limits, parse_limits
from pytest_falsify.compare.noise import RATIO, ROW_RATIO
from pytest_falsify.ledger.evidence import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.verdict import Judged

POSITIVE = {"type": "number", "exclusiveMinimum": 0}
NOISE: Mapping[str, Any] = {
    "description": "measure what is allowed: the control's own error is the floor of each site",
    "type": "object",
    "properties": {
        "control": CAPTURE_NAME,
        "ratio": {**POSITIVE, "description": f"how many floors a site may be off; {RATIO:g}"},
        "row_ratio": {**POSITIVE, "description": f"the same for one row; {ROW_RATIO:g}"},
    },
    "required": ["control"],
    "additionalProperties": False,
}


class Parity:
    """Refuted by the first site, or the worst row of a site, beyond its limit or its floor."""

    kind: ClassVar[str] = "parity"
    parameters: ClassVar[Mapping[str, Any]] = {
        **PAIR,
        "decode_steps": DECODE_STEPS,
        "expect": LIMITS_SCHEMA,
        "noise": NOISE,
    }
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle")
    one_of: ClassVar[tuple[str, ...]] = ("expect", "noise")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the subject, the oracle and the control, if any, on every input."""
        plan = stages_plan(claim)
        return (*pairs(claim, plan), *control_requests(claim, plan))

    def judge(self, claim: Claim, captures: Captures, compare: Compare) -> Verdict:
        """Hold every site against its limits and its floor."""
        expect = claim.parameter("expect")
        limits = parse_limits(expect) if expect else None
        compare = counting(compare, limits.tolerances if limits else ())
        found = [
            _Tried.of(claim, name, runs, limits, compare)
            for name, runs in by_input(captures).items()
        ]
        judged = tuple(each.judged for each in found)
        outcome, reason = conclusion(judged)
        observed = _observed(judged)
        if outcome is Outcome.REFUTED:
            return refuted([reason], captures, observed=observed, judged=judged)
        if outcome is Outcome.INCONCLUSIVE:
            return inconclusive(reason, judged)
        faults = plant(each.pair for each in found)
        return held(reason, captures, observed=observed, faults=faults, judged=judged)


class _Tried(NamedTuple):
    """One input: what was found, and what faults are planted in."""

    judged: Judged
    pair: Pair

    @classmethod
    def of(
        cls,
        claim: Claim,
        name: str,
        runs: Mapping[tuple[str, int], Capture],
        limits: Limits | None,
        compare: Compare,
    ) -> _Tried:
        subject, oracle = runs["subject", 0], runs["oracle", 0]
        control = runs.get(("control", 0))
        ratios = dict(claim.parameter("noise", {}))
        ratios.pop("control", None)
        rule = Rule(
            limits=limits,
            control=None if control is None else compare(control, oracle),
            ratios=ratios,
        )
        return cls(
            judged=rule.judged(name, compare(subject, oracle)),
            pair=Pair(subject=subject, oracle=oracle, compare=compare, refutes=rule.refutes),
        )


def _observed(judged: Sequence[Judged]) -> dict[str, Any]:
    observed: dict[str, Any] = {
        "bit_equal": all(
            site.total.is_bit_equal and not site.is_estimate
            for one in judged
            for site in one.comparison.sites
        ),
        "calibration": MEASURED if is_measured(judged) else UNCALIBRATED,
        "worst": worst(judged),
    }
    if is_estimated(judged):
        observed["estimated"] = True
    ratios = [each for one in judged for each in one.noise]
    if ratios:
        largest = max(ratios, key=lambda each: each.ratio)
        observed["worst"] |= {
            "floor": finite(largest.floor),
            "ratio": finite(largest.ratio),
            "ratio_site": str(largest.site),
            "row_ratio": finite(max(each.row_ratio for each in ratios)),
        }
    return observed
