"""`tokens`: the greedy continuation of the subject is the oracle's, token id by token id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.answers import has_nonfinite, margin
from pytest_falsify.checks.base import (
    CAPTURE_NAME,
    OBSERVED,
    Captures,
    Compare,
    Request,
    by_input,
    pairs,
)
from pytest_falsify.checks.verdict import Verdict, coverage, inconclusive
from pytest_falsify.ledger.evidence import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim

NEW_TOKENS = 16


class Tokens:
    """Refuted by the first token that differs; the oracle's margin there is recorded."""

    kind: ClassVar[str] = "tokens"
    parameters: ClassVar[Mapping[str, Any]] = {
        "subject": CAPTURE_NAME,
        "oracle": CAPTURE_NAME,
        "new_tokens": {"type": "integer", "minimum": 1, "maximum": 100_000},
        "inputs": OBSERVED["inputs"],
    }
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the greedy continuation of both on every input."""
        return pairs(claim, Plan(decode_steps=claim.parameter("new_tokens", NEW_TOKENS)))

    def judge(self, claim: Claim, captures: Captures, _compare: Compare) -> Verdict:
        """Compare token ids."""
        wanted = claim.parameter("new_tokens", NEW_TOKENS)
        agreed = []
        for name, runs in by_input(captures).items():
            subject, oracle = runs["subject", 0], runs["oracle", 0]
            if min(len(subject.continuation), len(oracle.continuation)) < wanted:
                return inconclusive(f"fewer than {wanted} tokens were decoded on {name}")
            if has_nonfinite(subject) != has_nonfinite(oracle):
                return _refuted(f"only one side's logits are finite on {name}", {}, captures)
            if has_nonfinite(oracle):
                return inconclusive(f"the logits on {name} are not finite")
            index = _first_difference(subject, oracle)
            if index is not None:
                return _refuted(
                    f"token {index + 1} of {wanted} on {name} is {subject.continuation[index]}, "
                    f"the oracle's is {oracle.continuation[index]} "
                    f"(by a margin of {margin(oracle, index):.3g} in logits)",
                    {"agreed": index, "margin": margin(oracle, index)},
                    captures,
                )
            agreed.append(min(margin(oracle, step) for step in range(wanted)))
        if not agreed:
            return inconclusive("nothing was compared")
        return Verdict(
            outcome=Outcome.HELD,
            reasons=(f"{wanted} greedy tokens are the oracle's",),
            observed={"agreed": wanted, "smallest_margin": min(agreed)},
            coverage=coverage(captures.values()),
        )


def _first_difference(subject: Capture, oracle: Capture) -> int | None:
    both = zip(subject.continuation, oracle.continuation, strict=False)
    return next((index for index, (mine, theirs) in enumerate(both) if mine != theirs), None)


def _refuted(reason: str, observed: dict[str, Any], captures: Captures) -> Verdict:
    return Verdict(
        outcome=Outcome.REFUTED,
        reasons=(reason,),
        observed=observed,
        coverage=coverage(captures.values()),
    )
