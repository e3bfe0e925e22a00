"""`deterministic`: the subject gives the same bits every time it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.checks.answers import differing_step, digest_of, has_nonfinite, unanswered
from pytest_falsify.checks.base import (
    CAPTURE_NAME,
    OBSERVED,
    Captures,
    Compare,
    Request,
    by_input,
)
from pytest_falsify.checks.identical import bitwise_verdict
from pytest_falsify.checks.verdict import Verdict, inconclusive, refuted
from pytest_falsify.ledger.evidence import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.checks.claim import Claim

RUNS = 3


class Deterministic:
    """Refuted by a run whose tensors or logits differ in one bit from the first run's."""

    kind: ClassVar[str] = "deterministic"
    parameters: ClassVar[Mapping[str, Any]] = {
        "subject": CAPTURE_NAME,
        "runs": {
            "description": f"how often the subject is run anew; {RUNS}",
            "type": "integer",
            "minimum": 2,
            "maximum": 1000,
        },
        **OBSERVED,
    }
    required: ClassVar[tuple[str, ...]] = ("subject",)
    is_repeating: ClassVar[bool] = True

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for fresh runs of the subject on every input."""
        return tuple(
            Request(
                role="subject",
                capture=claim.parameter("subject"),
                input=name,
                plan=claim.plan(),
                run=run,
                is_fresh=True,
            )
            for name in claim.inputs
            for run in range(claim.parameter("runs", RUNS))
        )

    def judge(self, _claim: Claim, captures: Captures, compare: Compare) -> Verdict:
        """Compare every run with the first: tensors, then logits."""
        if lack := unanswered(captures):
            return inconclusive(lack)
        if any(has_nonfinite(each) for each in captures.values()):
            return inconclusive("the subject's logits are not finite")
        of_input = by_input(captures)
        repeated = [
            (f"{name}, run {number}", other, runs["subject", 0])
            for name, runs in of_input.items()
            for number, other in enumerate(list(runs.values())[1:], start=2)
        ]
        verdict = bitwise_verdict(
            repeated, captures, compare, whose="the first run's", fact="repeatable"
        )
        if verdict.outcome is not Outcome.HELD:
            return verdict
        for label, other, first in repeated:
            step = differing_step(other, first)
            if step is not None:
                return refuted(
                    [f"{label}: the logits of step {step} are not the first run's"],
                    captures,
                    observed={"repeatable": False, "step": step},
                )
        repeated_so = {
            "repeats": min(map(len, of_input.values())),
            "digests": {name: digest_of(runs["subject", 0]) for name, runs in of_input.items()},
        }
        return replace(verdict, observed={**verdict.observed, **repeated_so})
