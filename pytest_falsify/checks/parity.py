"""`parity`: the subject is as near to the oracle as it has to be, at every site and in every row.

How near is measured by a control (``noise:``), stated by limits (``expect:``), or both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.checks.base import (
    CAPTURE_NAME,
    PAIR,
    Captures,
    Compare,
    Request,
    by_input,
    control_requests,
    pairs,
)
from pytest_falsify.checks.planting import Pair, plant
from pytest_falsify.checks.verdict import (
    Judged,
    Verdict,
    coverage,
    finite,
    inconclusive,
    nothing_compared,
    worst,
)
from pytest_falsify.compare.comparison import counting
from pytest_falsify.compare.limits import (
    LIMITS_SCHEMA,
    Limits,
    parse_limits,
    smallest_passing,
    violations,
)
from pytest_falsify.compare.noise import RATIO, ROW_RATIO, Judgement, SiteNoise, judge_noise
from pytest_falsify.ledger.evidence import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.compare.comparison import Comparison

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
    parameters: ClassVar[Mapping[str, Any]] = {**PAIR, "expect": LIMITS_SCHEMA, "noise": NOISE}
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle")
    one_of: ClassVar[tuple[str, ...]] = ("expect", "noise")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the subject, the oracle and the control, if any, on every input."""
        plan = claim.plan(needs_answer=False)
        return (*pairs(claim, plan), *control_requests(claim, plan))

    def judge(self, claim: Claim, captures: Captures, compare: Compare) -> Verdict:
        """Hold every site against its limits and its floor."""
        rules = {name: _Rule.of(claim, runs, compare) for name, runs in by_input(captures).items()}
        judged = tuple(rule.judged(name) for name, rule in rules.items())
        outcome, reason = _conclusion(judged)
        lack = nothing_compared(judged)
        if lack and outcome is not Outcome.REFUTED:
            return inconclusive(lack, judged)
        is_held = outcome is Outcome.HELD
        return Verdict(
            outcome=outcome,
            reasons=(reason,),
            observed=_observed(judged),
            coverage=coverage(captures.values()),
            faults=plant(rule.pair() for rule in rules.values()) if is_held else None,
            judged=judged,
        )


class _Rule:
    """What one input's subject is held against."""

    def __init__(
        self,
        captures: tuple[Capture, Capture, Capture | None],
        compare: Compare,
        limits: Limits | None,
        noise: Mapping[str, Any],
    ) -> None:
        self._subject, self._oracle, control = captures
        self._compare = counting(compare, limits.tolerances) if limits else compare
        self._limits = limits
        self._ratios = {key: value for key, value in noise.items() if key != "control"}
        self._control = compare(control, self._oracle) if control is not None else None

    @classmethod
    def of(cls, claim: Claim, runs: Mapping[tuple[str, int], Capture], compare: Compare) -> _Rule:
        """Return the rule of a claim for the captures of one input."""
        expect = claim.parameter("expect")
        captures = (runs["subject", 0], runs["oracle", 0], runs.get(("control", 0)))
        limits = parse_limits(expect) if expect else None
        return cls(captures, compare, limits, claim.parameter("noise", {}))

    def judged(self, label: str) -> Judged:
        """Compare the subject and mark what is beyond."""
        comparison = self._compare(self._subject, self._oracle)
        broken = violations(comparison, self._limits) if self._limits else ()
        advice = smallest_passing(comparison, self._limits) if self._limits and broken else ""
        return Judged(
            label=label,
            comparison=comparison,
            violations=broken,
            noise=self._noise(comparison),
            advice=str(advice),
        )

    def _noise(self, comparison: Comparison) -> tuple[SiteNoise, ...]:
        return judge_noise(comparison, self._control, **self._ratios) if self._control else ()

    def refutes(self, comparison: Comparison) -> bool:
        """Tell whether a comparison goes beyond the limits or the floor."""
        if self._limits and violations(comparison, self._limits):
            return True
        return any(each.judgement is Judgement.BUG for each in self._noise(comparison))

    def pair(self) -> Pair:
        """Return what faults are planted in."""
        return Pair(
            subject=self._subject,
            oracle=self._oracle,
            compare=self._compare,
            refutes=self.refutes,
        )


def _conclusion(judged: tuple[Judged, ...]) -> tuple[Outcome, str]:
    broken = [each for one in judged for each in one.violations]
    if broken:
        beyond = len({each.site for each in broken})
        return Outcome.REFUTED, f"{beyond} sites are beyond their limits; the first is {broken[0]}"
    bugs = [each for one in judged for each in one.beyond(Judgement.BUG)]
    if bugs:
        beyond = len({each.site for each in bugs})
        reason = f"{beyond} sites are beyond their floor; the first is {_told(bugs[0])}"
        return Outcome.REFUTED, reason
    unsure = [each for one in judged for each in one.beyond(Judgement.INCONCLUSIVE)]
    if unsure:
        return Outcome.INCONCLUSIVE, f"{len(unsure)} sites are undecided: {_undecided(unsure)}"
    sites = len({site.site for one in judged for site in one.comparison.sites})
    within = (
        "no further from the oracle than the control" if _is_measured(judged) else "within limits"
    )
    estimated = ", estimated from sketches" if _is_estimated(judged) else ""
    return Outcome.HELD, f"{sites} sites are {within}{estimated}"


def _is_measured(judged: tuple[Judged, ...]) -> bool:
    return any(one.noise for one in judged)


def _is_estimated(judged: tuple[Judged, ...]) -> bool:
    return any(site.is_estimate for one in judged for site in one.comparison.sites)


def _told(noise: SiteNoise) -> str:
    return f"{noise.site}: {noise.reason}"


def _undecided(unsure: list[SiteNoise]) -> str:
    wanted = [each.more_tokens for each in unsure if each.more_tokens is not None]
    if not wanted:
        return _told(unsure[0])
    return f"{_told(unsure[0])}; about {max(wanted)} more tokens would decide all of them"


def _observed(judged: tuple[Judged, ...]) -> dict[str, Any]:
    observed: dict[str, Any] = {
        "bit_equal": all(
            site.total.is_bit_equal and not site.is_estimate
            for one in judged
            for site in one.comparison.sites
        ),
        "calibration": "measured" if _is_measured(judged) else "uncalibrated",
        "worst": worst(judged),
    }
    if _is_estimated(judged):
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
