"""`tokens`: the greedy continuation of the subject is the oracle's, token id by token id."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.answers import has_nonfinite, margin, unanswered
from pytest_falsify.checks.base import (
    ANSWERS,
    Captures,
    Compare,
    Request,
    by_input,
    control_requests,
    pairs,
)
from pytest_falsify.checks.choices import NOISE
from pytest_falsify.checks.verdict import Verdict, coverage, held, inconclusive
from pytest_falsify.compare.tokens import SIGMAS, Choice, top_changes
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.words import number_are, number_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim

NEW_TOKENS = 16


class Tokens:
    """Refuted by the first token that differs; the oracle's margin there is recorded."""

    kind: ClassVar[str] = "tokens"
    parameters: ClassVar[Mapping[str, Any]] = {
        **ANSWERS,
        "new_tokens": {
            "description": f"how many tokens are decoded; {NEW_TOKENS}",
            "type": "integer",
            "minimum": 1,
            "maximum": 100_000,
        },
        "noise": NOISE,
    }
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the greedy continuation of both on every input."""
        plan = Plan(decode_steps=claim.parameter("new_tokens", NEW_TOKENS))
        return (*pairs(claim, plan), *control_requests(claim, plan))

    def judge(self, claim: Claim, captures: Captures, _compare: Compare) -> Verdict:
        """Compare token ids."""
        wanted = claim.parameter("new_tokens", NEW_TOKENS)
        if lack := unanswered(captures, steps=wanted):
            return inconclusive(lack)
        margins = []
        for name, runs in by_input(captures).items():
            objection = _objection(claim, name, runs)
            if objection is not None:
                return replace(objection, coverage=coverage(captures.values()))
            margins += [margin(runs["oracle", 0], step) for step in range(wanted)]
        return held(
            f"{number_are(wanted, 'greedy token')} the oracle's",
            captures,
            observed={"agreed": wanted, "smallest_margin": min(margins)},
            faults=plant_wrong_tokens(captures),
        )


def _objection(claim: Claim, name: str, runs: Mapping[tuple[str, int], Capture]) -> Verdict | None:
    """Return what speaks against agreement on one input, or None."""
    wanted = claim.parameter("new_tokens", NEW_TOKENS)
    subject, oracle = runs["subject", 0], runs["oracle", 0]
    if min(len(subject.continuation), len(oracle.continuation)) < wanted:
        return inconclusive(
            f"fewer than {number_of(wanted, 'token was', 'tokens were')} decoded on {name}"
        )
    if has_nonfinite(subject) != has_nonfinite(oracle):
        return _refuted(f"only one side's logits are finite on {name}", {})
    if has_nonfinite(oracle):
        return inconclusive(f"the logits on {name} are not finite")
    index = first_difference(subject, oracle)
    if index is None:
        return None
    if _is_tie(claim, runs, index):
        return inconclusive(
            f"token {index + 1} of {wanted} on {name} is a near-tie that noise explains; "
            "what follows it cannot be compared: see kind `argmax`"
        )
    gap = margin(oracle, index)
    return _refuted(
        f"token {index + 1} of {wanted} on {name} is {subject.continuation[index]}, "
        f"the oracle's is {oracle.continuation[index]} (by a margin of {gap:.3g} in logits)",
        {"agreed": index, "margin": gap},
    )


def first_difference(subject: Capture, oracle: Capture) -> int | None:
    """Return the index of the first greedy token that differs, or None."""
    both = zip(subject.continuation, oracle.continuation, strict=False)
    return next((index for index, (mine, theirs) in enumerate(both) if mine != theirs), None)


def _is_tie(claim: Claim, runs: Mapping[tuple[str, int], Capture], index: int) -> bool:
    """Tell whether the control's own error explains the first token that differs."""
    subject, oracle, control = (runs.get((role, 0)) for role in ("subject", "oracle", "control"))
    if subject is None or oracle is None or control is None:
        return False
    known = first_difference(control, oracle)
    if known is not None and known < index:
        return False  # the control went another way before: its error here is not this token's
    changes = top_changes(
        *(each.logits[index][-1:] for each in (subject, oracle, control)),
        sigmas=claim.parameter("noise").get("sigmas", SIGMAS),
    )
    return all(each.choice is Choice.TIE for each in changes)


def plant_wrong_tokens(captures: Captures) -> dict[str, int]:
    """Plant one wrong token at the beginning, in the middle and at the end of each continuation."""
    planted = caught = 0
    for runs in by_input(captures).values():
        subject, oracle = runs["subject", 0], runs["oracle", 0]
        last = len(oracle.continuation) - 1
        for place in sorted({0, last // 2, last}):
            wrong = list(subject.continuation)
            wrong[place] += 1
            planted += 1
            caught += first_difference(replace(subject, continuation=tuple(wrong)), oracle) == place
    return {"planted": planted, "caught": caught}


def _refuted(reason: str, observed: dict[str, Any]) -> Verdict:
    return Verdict(outcome=Outcome.REFUTED, reasons=(reason,), observed=observed)
