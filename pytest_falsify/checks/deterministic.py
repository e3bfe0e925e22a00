"""`deterministic`: the subject gives the same bits every time it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.checks.answers import differing_step, has_nonfinite
from pytest_falsify.checks.base import (
    CAPTURE_NAME,
    OBSERVED,
    Captures,
    Compare,
    Request,
    by_input,
)
from pytest_falsify.checks.identical import bitwise_verdict, judge_bits
from pytest_falsify.checks.verdict import Verdict, inconclusive
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
        "runs": {"type": "integer", "minimum": 2, "maximum": 1000},
        **OBSERVED,
    }
    required: ClassVar[tuple[str, ...]] = ("subject",)

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
        """Compare every run with the first, and their logits too."""
        runs = [run for each in by_input(captures).values() for run in each.values()]
        if any(has_nonfinite(each) for each in runs):
            return inconclusive("the subject's logits are not finite")
        judged = []
        for name, each in by_input(captures).items():
            first, *others = each.values()
            for number, other in enumerate(others, start=2):
                judged.append(judge_bits(f"{name}, run {number}", compare(other, first)))
                if differing_step(other, first) is not None and not judged[-1].violations:
                    return Verdict(
                        outcome=Outcome.REFUTED,
                        reasons=(f"the logits of run {number} on {name} are not the first run's",),
                        judged=tuple(judged),
                    )
        return bitwise_verdict(tuple(judged), captures, "the first run's")
