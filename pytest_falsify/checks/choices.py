"""`topk`: the subject's k best next tokens are the oracle's; a flip within the noise is a tie."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.answers import has_nonfinite, unanswered
from pytest_falsify.checks.base import (
    ANSWERS,
    CAPTURE_NAME,
    Captures,
    Compare,
    Request,
    by_input,
    control_requests,
    pairs,
)
from pytest_falsify.checks.rule import MEASURED, UNCALIBRATED
from pytest_falsify.checks.verdict import Verdict, held, inconclusive, refuted
from pytest_falsify.compare.tokens import SIGMAS, Change, Choice, top_changes
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim

FEW = 5
NOISE: Mapping[str, Any] = {
    "description": "the control whose error against the oracle is the noise of each token",
    "type": "object",
    "properties": {
        "control": CAPTURE_NAME,
        "sigmas": {
            "description": f"by how many times the noise a margin may be overcome; {SIGMAS:g}",
            "type": "number",
            "exclusiveMinimum": 0,
        },
    },
    "required": ["control"],
    "additionalProperties": False,
}


class TopK:
    """Refuted by a choice that the oracle prefers by more than noise explains."""

    kind: ClassVar[str] = "topk"
    parameters: ClassVar[Mapping[str, Any]] = {
        **ANSWERS,
        "noise": NOISE,
        "k": {
            "description": f"how many of the best tokens are compared, in any order; {FEW}",
            "type": "integer",
            "minimum": 1,
            "maximum": 1000,
        },
    }
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle")
    k: ClassVar[int] = FEW

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the logits of the prefill on every input; no stage is observed."""
        return (*pairs(claim, Plan()), *control_requests(claim, Plan()))

    def judge(self, claim: Claim, captures: Captures, _compare: Compare) -> Verdict:
        """Compare the choices of every token."""
        if lack := unanswered(captures) or _garbage(captures):
            return inconclusive(lack)
        found = {name: self._changes(claim, runs) for name, runs in by_input(captures).items()}
        changes = [(name, each) for name, some in found.items() for each in some]
        flips = [(name, each) for name, each in changes if each.choice is Choice.FLIP]
        ties = len(changes) - len(flips)
        tokens = sum(
            len(each.inputs.tokens)
            for request, each in captures.items()
            if request.role == "oracle"
        )
        observed = {
            "flips": len(flips),
            "ties": ties,
            "tokens": tokens,
            "calibration": MEASURED if claim.parameter("noise") else UNCALIBRATED,
        }
        if flips:
            name, worst = flips[0]
            return refuted([_told(name, worst, len(flips))], captures, observed=observed)
        return held(
            f"the {self._k(claim)} best of {number_of(tokens, 'token')} agree, {ties} within noise",
            captures,
            observed=observed,
            faults=self._plant(claim, captures),
        )

    def _k(self, claim: Claim) -> int:
        return int(claim.parameter("k", self.k))

    def _changes(self, claim: Claim, runs: Mapping[tuple[str, int], Capture]) -> tuple[Change, ...]:
        control = runs.get(("control", 0))
        return top_changes(
            runs["subject", 0].logits[0],
            runs["oracle", 0].logits[0],
            None if control is None else control.logits[0],
            k=self._k(claim),
            sigmas=claim.parameter("noise", {}).get("sigmas", SIGMAS),
        )

    def _plant(self, claim: Claim, captures: Captures) -> dict[str, Any]:
        """Plant other tokens' logits, reversed logits and a NaN; each must be a flip."""
        planted = caught = 0
        for runs in by_input(captures).values():
            for faulty in _faulty(runs["subject", 0]):
                planted += 1
                changes = self._changes(claim, {**runs, ("subject", 0): faulty})
                caught += any(each.choice is Choice.FLIP for each in changes)
        return {"planted": planted, "caught": caught}


class Argmax(TopK):
    """Refuted by a best token that the oracle prefers another to, by more than noise explains."""

    kind: ClassVar[str] = "argmax"
    parameters: ClassVar[Mapping[str, Any]] = {
        key: value for key, value in TopK.parameters.items() if key != "k"
    }
    k: ClassVar[int] = 1


def _garbage(captures: Captures) -> str:
    others = (each for request, each in captures.items() if request.role != "subject")
    if any(map(has_nonfinite, others)):
        return "the oracle's or the control's logits are not finite"
    return ""


def _faulty(subject: Capture) -> list[Capture]:
    logits = subject.logits[0]
    poisoned = np.array(logits)
    poisoned[len(poisoned) // 2, 0] = np.nan
    found = [-logits, poisoned, np.roll(logits, 1, axis=1)]
    return [replace(subject, logits=(each, *subject.logits[1:])) for each in found]


def _told(name: str, change: Change, count: int) -> str:
    flips = number_of(count, "choice flips", "choices flip")
    return (
        f"{flips}; the first on {name} at token {change.token}: {change.subject} "
        f"instead of {change.oracle}, which the oracle prefers by {change.margin:.3g} "
        f"(noise explains {change.allowance:.3g})"
    )
