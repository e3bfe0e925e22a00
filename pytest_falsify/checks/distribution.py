"""`distribution`: the subject's next-token distributions are near the oracle's, at every token."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import inf, log
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.answers import unanswered
from pytest_falsify.checks.base import (
    ANSWERS,
    Captures,
    Compare,
    Request,
    by_input,
    pairs,
)
from pytest_falsify.checks.verdict import Verdict, finite, held, inconclusive, refuted
from pytest_falsify.compare.distribution import js_divergence, kl_divergence, top_k_divergence
from pytest_falsify.errors import AlignmentError
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim

    Array = NDArray[Any]

MOST_JS = log(2)
"""No two distributions are farther apart: a bound that is not below it cannot fail."""


def _below(most: float) -> Mapping[str, Any]:
    limit = {"type": "number", "minimum": 0} | ({"exclusiveMaximum": most} if most < inf else {})
    return {
        "type": "object",
        "properties": {"mean": limit, "max": limit},
        "additionalProperties": False,
        "minProperties": 1,
    }


BOUND = _below(inf)


class Distribution:
    """Refuted when a divergence, in nats, is beyond its bound in the mean or at one token."""

    kind: ClassVar[str] = "distribution"
    parameters: ClassVar[Mapping[str, Any]] = {
        **ANSWERS,
        "expect": {
            "description": "bounds in nats: over the mean of all tokens, and over the worst one",
            "type": "object",
            "properties": {
                "kl": BOUND,
                "js": _below(MOST_JS),
                "top_k": {
                    **BOUND,
                    "properties": {**BOUND["properties"], "k": {"type": "integer", "minimum": 1}},
                    "required": ["k"],
                    "minProperties": 2,
                },
            },
            "additionalProperties": False,
            "minProperties": 1,
        },
    }
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle", "expect")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the logits of the prefill on every input; no stage is observed."""
        return pairs(claim, Plan())

    def judge(self, claim: Claim, captures: Captures, _compare: Compare) -> Verdict:
        """Hold the divergences of all tokens against their bounds."""
        if lack := unanswered(captures):
            return inconclusive(lack)
        expect = claim.parameter("expect")
        both = [(runs["subject", 0], runs["oracle", 0]) for runs in by_input(captures).values()]
        found = _divergences(both, expect)
        observed = {
            name: {"mean": finite(float(each.mean())), "max": finite(float(each.max()))}
            for name, each in found.items()
        }
        broken = list(_broken(found, expect))
        if broken:
            return refuted(broken, captures, observed=observed)
        tokens = _tokens(found)
        reason = number_of(tokens, "token is within its bounds", "tokens are within their bounds")
        return held(reason, captures, observed=observed, faults=_plant(both, expect))


def _divergences(
    both: list[tuple[Capture, Capture]], expect: Mapping[str, Any]
) -> dict[str, Array]:
    """Return every divergence that has a bound, one value a token of every input."""
    measures: dict[str, Callable[[Array, Array], Array]] = {
        "kl": kl_divergence,
        "js": js_divergence,
    }
    if "top_k" in expect:
        measures["top_k"] = partial(top_k_divergence, k=expect["top_k"]["k"])
    for subject, oracle in both:
        if subject.logits[0].shape != oracle.logits[0].shape:
            msg = f"logits of shapes {subject.logits[0].shape} and {oracle.logits[0].shape}"
            raise AlignmentError(msg, expected="the same tokens and the same vocabulary")
    return {
        name: np.concatenate(
            [measures[name](oracle.logits[0], subject.logits[0]) for subject, oracle in both]
        )
        for name in expect
    }


def _broken(found: Mapping[str, Array], expect: Mapping[str, Any]) -> list[str]:
    reasons = []
    for name, values in found.items():
        for side, value in (("mean", float(values.mean())), ("max", float(values.max()))):
            bound = expect[name].get(side)
            if bound is not None and not value <= bound:
                at = f" at token {int(values.argmax())}" if side == "max" else ""
                reasons.append(f"{name} {side} {value:.3g} nats is above {bound:g}{at}")
    return reasons


def _plant(both: list[tuple[Capture, Capture]], expect: Mapping[str, Any]) -> dict[str, Any]:
    """Plant uniform, shifted and poisoned logits in one input at a time; each must be refuted."""
    planted = caught = 0
    for index, (subject, oracle) in enumerate(both):
        for faulty in _faulty(subject.logits[0]):
            changed = list(both)
            changed[index] = (replace(subject, logits=(faulty,)), oracle)
            planted += 1
            caught += bool(_broken(_divergences(changed, expect), expect))
    return {"planted": planted, "caught": caught}


def _faulty(logits: Array) -> list[Array]:
    poisoned = np.array(logits)
    poisoned[len(poisoned) // 2, 0] = np.nan
    return [np.zeros_like(logits), np.roll(logits, 1, axis=1), poisoned]


def _tokens(found: Mapping[str, Array]) -> int:
    return max(len(each) for each in found.values())
