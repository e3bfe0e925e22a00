"""`rate`: of many prompts, few enough are answered otherwise than the oracle answers them.

One prompt that differs says little where rounding turns a near-tie now and then; how many of some
hundred do says a lot. What is known of the share is an interval, and the whole of it has to be on
one side of the limit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.checks.base import (
    CAPTURE_NAME,
    INPUTS,
    Captures,
    Compare,
    Request,
    by_input,
    control_requests,
    pairs,
)
from pytest_falsify.checks.counted import Counted
from pytest_falsify.checks.marks import OUTCOME, Question
from pytest_falsify.checks.prompt_outcome import PromptOutcome
from pytest_falsify.checks.survey import Survey
from pytest_falsify.checks.tokens import NEW_TOKENS
from pytest_falsify.checks.verdict import Verdict, held, inconclusive, refuted
from pytest_falsify.compare.rates import CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim


class RateCheck:
    """Refuted when more prompts than the limit allows surely differ, or more than the control's."""

    kind: ClassVar[str] = "rate"
    parameters: ClassVar[Mapping[str, Any]] = {
        "subject": CAPTURE_NAME,
        "oracle": CAPTURE_NAME,
        "inputs": {**INPUTS, "description": "the datasets whose prompts are tried, all together"},
        "outcome": OUTCOME,
        "new_tokens": {
            "description": f"of `tokens`: how many are decoded; {NEW_TOKENS}",
            "type": "integer",
            "minimum": 1,
            "maximum": 100_000,
        },
        "expect": {
            "description": "the share of the prompts that may differ",
            "type": "object",
            "properties": {
                "rate": {
                    "type": "object",
                    "properties": {
                        "max": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
                    },
                    "required": ["max"],
                    "additionalProperties": False,
                    "description": "`max`: above 0, which no number of prompts can show, below 1",
                }
            },
            "required": ["rate"],
            "additionalProperties": False,
        },
        "noise": {
            "description": "the control: only a subject that differs from the oracle more often "
            "than it does, by more than chance, is refuted",
            "type": "object",
            "properties": {"control": CAPTURE_NAME},
            "required": ["control"],
            "additionalProperties": False,
        },
        "confidence": {
            "description": f"of the interval and of the test against the control; {CONFIDENCE:g}",
            "type": "number",
            "minimum": 0.5,
            "exclusiveMaximum": 1,
            "default": CONFIDENCE,
        },
        "buckets": {
            "description": "the longest prompt of each bucket, in tokens, ascending; powers of two",
            "type": "array",
            "items": {"type": "integer", "minimum": 1},
            "minItems": 1,
            "uniqueItems": True,
        },
    }
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle", "inputs", "outcome", "expect")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the subject, the oracle and the control on every prompt of the datasets."""
        plan = Question.of(claim).plan
        return (*pairs(claim, plan), *control_requests(claim, plan))

    def outcome(self, claim: Claim, id: str, runs: Mapping[str, Capture]) -> PromptOutcome:  # noqa: A002
        """Mark the answers to one prompt."""
        return PromptOutcome.of(id, Question.of(claim), runs)

    def judge(self, claim: Claim, captures: Captures, _compare: Compare) -> Verdict:
        """Judge captures that were all kept, each prompt under an input of its own."""
        outcomes = tuple(
            self.outcome(claim, name, {role: each for (role, _), each in runs.items()})
            for name, runs in by_input(captures).items()
        )
        return self.judge_survey(claim, Survey(outcomes=outcomes, captures=captures))

    def judge_survey(self, claim: Claim, survey: Survey) -> Verdict:
        """Hold the share of prompts that differ against its limit."""
        if not survey.outcomes:
            return inconclusive("nothing was compared: the dataset holds no prompt")
        counted = Counted(
            outcomes=survey.outcomes,
            limit=claim.parameter("expect")["rate"]["max"],
            confidence=claim.parameter("confidence", CONFIDENCE),
            edges=sorted(claim.parameter("buckets", ())) or None,
            is_paired=claim.parameter("noise") is not None,
        )
        verdict = _verdict(counted, survey.captures)
        return replace(verdict, observed=counted.observed(), counted=counted)


def _verdict(counted: Counted, captures: Captures) -> Verdict:
    best, least = (counted.is_kept(favourably=each) for each in (True, False))
    if counted.rate is None or best is not least:
        return inconclusive(_unjudged(counted))
    if best is False:
        return refuted([_beyond(counted), *_beyond_alone(counted)], captures, observed={})
    words = counted.rate.words(counted.confidence)
    if best is None:
        return inconclusive(f"{words} prompts differ, {_undecided(counted)}")
    if counted.beyond:
        return inconclusive("; ".join([f"{words} prompts differ", *_beyond_alone(counted)]))
    if counted.is_beyond_with_lost:
        return inconclusive(_unjudged(counted))
    reason = f"{words} prompts differ, within {counted.limit:g}"
    return held(reason, captures, observed={}, faults=_plant(counted))


def _unjudged(counted: Counted) -> str:
    first, total = counted.unjudged[0], len(counted.outcomes)
    what = f"none of {total} prompts could be judged"
    if counted.rate is not None:
        what = (
            f"{len(counted.unjudged)} of {total} prompts could not be judged, which could turn it"
        )
    return f"{what}; the first is {first.id}: {first.lack}"


def _beyond(counted: Counted) -> str:
    words = counted.rate.words(counted.confidence) if counted.rate else ""
    paired = counted.discordance
    if paired is None:
        return f"{words} prompts differ, beyond {counted.limit:g}"
    return (
        f"{words} prompts differ; {paired.worse} at which the control does not, and it alone at "
        f"{paired.better}: more than chance (p = {paired.chance:.2g})"
    )


def _undecided(counted: Counted) -> str:
    rate, limit = counted.rate, counted.limit
    if rate is None:
        return ""
    if rate.is_within(limit, counted.confidence) is False:
        return f"beyond {limit:g}, but no more often than the control by more than chance"
    lacking = rate.lacking(limit, counted.confidence)
    wanted = "no number of prompts" if lacking is None else f"about {lacking} prompts more"
    return f"undecided against {limit:g}: {wanted} at this rate would decide"


def _beyond_alone(counted: Counted) -> Iterator[str]:
    """Yield which lengths are beyond by themselves."""
    for each in counted.beyond:
        yield f"prompts of {each.label} tokens are beyond {counted.limit:g} alone: {each.words}"


def _plant(counted: Counted) -> dict[str, Any]:
    """Return what became of the faults planted in every prompt, and plant some in their number."""
    planted = sum(each.planted for each in counted.judged)
    missed = {name for each in counted.judged for name in each.missed}
    caught = planted - sum(len(each.missed) for each in counted.judged)
    seen = counted.pairs()
    for name, pairs_ in _faulty(counted, seen):
        planted += 1
        if counted.is_kept_by(pairs_) is False:
            caught += 1
        else:
            missed.add(name)
    faults = {"planted": planted, "caught": caught, "smallest_caught": _smallest(counted, seen)}
    return {**faults, "missed": sorted(missed)} if missed else faults


def _faulty(
    counted: Counted, seen: Sequence[tuple[bool, bool]]
) -> Iterator[tuple[str, list[tuple[bool, bool]]]]:
    """Yield what would have been counted: every answer wrong, and each held against another's."""
    yield "every answer wrong", [(True, control) for _, control in seen]
    answers = [each.answers for each in counted.judged]
    if any(theirs for _, theirs in answers):
        next_ones = [theirs for _, theirs in (*answers[1:], answers[0])]
        mixed = [mine != theirs for (mine, _), theirs in zip(answers, next_ones, strict=True)]
        yield (
            "answers of other prompts",
            [(mine, control) for mine, (_, control) in zip(mixed, seen, strict=True)],
        )


def _smallest(counted: Counted, seen: Sequence[tuple[bool, bool]]) -> float | None:
    """Return the smallest share of wrong answers that is refuted; None: not even all of them."""
    agreeing = [place for place, (mine, _) in enumerate(seen) if not mine]
    low, high = 0, len(agreeing) + 1
    while low + 1 < high:
        wrong = (low + high) // 2
        turned = set(agreeing[:wrong])
        pairs_ = [(mine or place in turned, its) for place, (mine, its) in enumerate(seen)]
        low, high = (low, wrong) if counted.is_kept_by(pairs_) is False else (wrong, high)
    if high > len(agreeing):
        return None
    return (len(seen) - len(agreeing) + high) / len(seen)
