"""`decode`: the answer survives being served by two workers; else the leg that changed it is named.

With the oracle's tokens forced, every step of the way from the oracle's answer to the subject's is
a divergence of its own, in nats over the whole vocabulary: from the oracle to good code that goes
on from what was sent (prefill), from there to good code that goes on from what arrived (transfer),
and from there to the subject (decode). Left to itself, the subject has to choose the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.answers import margin
from pytest_falsify.checks.base import (
    CAPTURE_NAME,
    OBSERVED,
    Captures,
    Compare,
    Request,
    by_input,
)
from pytest_falsify.checks.choices import NOISE
from pytest_falsify.checks.distribution import BOUND
from pytest_falsify.checks.kv import REPLAY, leg_requests
from pytest_falsify.checks.tokens import first_difference
from pytest_falsify.checks.verdict import Verdict, finite, held, inconclusive, refuted
from pytest_falsify.compare.distribution import kl_divergence
from pytest_falsify.compare.tokens import SIGMAS, Choice, top_changes
from pytest_falsify.disaggregation.legs import Leg, named
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.words import number_are, number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim

    Array = NDArray[Any]
    Runs = Mapping[tuple[str, int], Capture]

NEW_TOKENS = 8
FROM_ARRIVED, FROM_SENT = 0, 1
FREE = 1


class Decode:
    """Refuted by a leg that moves the answer too far, or by the first token that differs."""

    kind: ClassVar[str] = "decode"
    parameters: ClassVar[Mapping[str, Any]] = {
        "subject": CAPTURE_NAME,
        "oracle": CAPTURE_NAME,
        "new_tokens": {
            "description": f"how many tokens are decoded, forced and freely; {NEW_TOKENS}",
            "type": "integer",
            "minimum": 1,
            "maximum": 100_000,
            "default": NEW_TOKENS,
        },
        "expect": {
            "description": "how far, in nats, each leg may move the distribution of the next token",
            "type": "object",
            "properties": {"kl": BOUND},
            "required": ["kl"],
            "additionalProperties": False,
        },
        "noise": NOISE,
        "inputs": OBSERVED["inputs"],
    }
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle", "expect")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for what the legs are judged from, and for the subject left to itself."""
        steps = claim.parameter("new_tokens", NEW_TOKENS)
        replays = {FROM_ARRIVED: False, FROM_SENT: True}
        return tuple(
            each
            for name in claim.inputs
            for each in (
                *leg_requests(claim, name, steps=steps, replays=replays),
                Request(
                    role="subject",
                    capture=claim.parameter("subject"),
                    input=name,
                    plan=Plan(decode_steps=steps),
                    run=FREE,
                ),
            )
        )

    def judge(self, claim: Claim, captures: Captures, _compare: Compare) -> Verdict:
        """Judge the answers of every input."""
        by_name = by_input(captures)
        if not by_name:
            return inconclusive("nothing was compared")
        rule = _Rule.of(claim)
        found = {name: _Answers(runs=runs, rule=rule) for name, runs in by_name.items()}
        for name, one in found.items():
            if lack := one.lack():
                return inconclusive(f"on {name}: {lack}")
        outcome, leg, reasons = _concluded(found)
        observed = _observed(found, leg)
        if outcome is Outcome.REFUTED:
            return refuted(reasons, captures, observed=observed)
        if outcome is Outcome.INCONCLUSIVE:
            return inconclusive(reasons[0])
        return held(reasons[0], captures, observed=observed, faults=_planted(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What a claim allows.

    Attributes:
        bounds: of the mean and of the largest divergence, in nats.
        steps: how many tokens are to be there.
        sigmas: by how many times the noise a margin may be overcome.
    """

    bounds: Mapping[str, float]
    steps: int
    sigmas: float

    @classmethod
    def of(cls, claim: Claim) -> _Rule:
        return cls(
            bounds=claim.parameter("expect")["kl"],
            steps=claim.parameter("new_tokens", NEW_TOKENS),
            sigmas=claim.parameter("noise", {}).get("sigmas", SIGMAS),
        )

    def broken(self, divergences: Array) -> str:
        """Return which bound a leg's divergences break, or nothing; NaN keeps none."""
        for side, value in (("mean", divergences.mean()), ("max", divergences.max())):
            bound = self.bounds.get(side)
            if bound is not None and not value <= bound:
                return f"{side} KL {value:.3g} nats is above {bound:g}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """The answers on one input."""

    runs: Runs
    rule: _Rule

    @property
    def oracle(self) -> Capture:
        return self.runs["oracle", 0]

    @property
    def free(self) -> Capture:
        return self.runs["subject", FREE]

    def lack(self) -> str:
        """Return what is missing for a judgement, or nothing."""
        wanted = self.rule.steps
        roles = [("oracle", 0), ("subject", 0), ("subject", FREE), (REPLAY, 0), (REPLAY, 1)]
        for role, run in roles:
            each = self.runs.get((role, run))
            if each is None or len(each.logits) <= wanted or len(each.continuation) < wanted:
                return f"the {role} decoded fewer than {number_of(wanted, 'token')}"
        if not all(len(step) for step in self.oracle.logits):
            return "nothing was compared"
        if not all(np.isfinite(each.astype(np.float64)).all() for each in self.oracle.logits):
            return "the oracle's logits are not finite"
        return ""

    def links(self) -> Iterator[tuple[Leg, Array, Array]]:
        """Yield what each leg made of the answer: logits before it and after it."""
        subject = self.runs["subject", 0]
        sent, arrived = self.runs[REPLAY, FROM_SENT], self.runs[REPLAY, FROM_ARRIVED]
        yield Leg.PREFILL, self.oracle.logits[0], subject.logits[0]
        yield Leg.PREFILL, _steps(self.oracle), _steps(sent)
        yield Leg.TRANSFER, _steps(sent), _steps(arrived)
        yield Leg.DECODE, _steps(arrived), _steps(subject)

    def divergences(self) -> dict[Leg, Array]:
        """Return the divergences that each leg adds, a step each; what is not finite is infinite.

        A leg that is given NaN cannot be blamed for it.
        """
        found: dict[Leg, Array] = {}
        for leg, before, after in self.links():
            own = kl_divergence(before, after)
            own[~np.isfinite(before.astype(np.float64)).all(axis=-1)] = 0.0
            found[leg] = np.concatenate([found.get(leg, own[:0]), own])
        return found

    def guilty(self) -> dict[Leg, str]:
        """Return the legs that move the answer too far, and why."""
        return {
            leg: f"{leg.value}: {why}"
            for leg, each in self.divergences().items()
            if (why := self.rule.broken(each))
        }

    def difference(self) -> tuple[int, Leg | None, str] | None:
        """Return the first token that differs: its index, which leg changed it, and the words."""
        index = first_difference(self.free, self.oracle)
        if index is None:
            return None
        leg = self._turned(index)
        blame = f"; {leg.value} turns it" if leg else "; no leg alone turns it"
        words = (
            f"token {index + 1} of {self.rule.steps} is {self.free.continuation[index]}, the "
            f"oracle's is {self.oracle.continuation[index]} (by a margin of "
            f"{margin(self.oracle, index):.3g} in logits{blame})"
        )
        return index, leg, words

    def is_tie(self, index: int) -> bool:
        """Tell whether the control's own error explains a difference there."""
        control = self.runs.get(("control", 0))
        if control is None:
            return False
        changes = top_changes(
            *(each.logits[index][-1:] for each in (self.free, self.oracle, control)),
            sigmas=self.rule.sigmas,
        )
        return all(each.choice is Choice.TIE for each in changes)

    def _turned(self, index: int) -> Leg | None:
        """Return the first leg after which another token is the best, on the oracle's tokens."""
        for leg, before, after in self.links():
            is_prefill = len(before) == len(self.oracle.logits[0]) and leg is Leg.PREFILL
            if is_prefill != (index == 0):
                continue
            place = -1 if index == 0 else index - 1
            if before[place].argmax() != after[place].argmax():
                return leg
        return None


def _steps(capture: Capture) -> Array:
    """Return the logits of all decode steps: (steps, vocabulary)."""
    return np.concatenate(capture.logits[1:])


def _concluded(
    found: Mapping[str, _Answers],
) -> tuple[Outcome, str, tuple[str, ...]]:
    """Return the outcome, the leg to blame, and why."""
    guilty: dict[Leg, str] = {}
    for name, one in found.items():
        for leg, why in one.guilty().items():
            guilty.setdefault(leg, f"{why}, on {name}")
    differing = {
        name: (one, difference)
        for name, one in found.items()
        if (difference := one.difference()) is not None
    }
    flips = [
        (difference[1], f"{difference[2]}, on {name}")
        for name, (one, difference) in differing.items()
        if not one.is_tie(difference[0])
    ]
    if guilty:
        ordered = tuple(guilty[leg] for leg in Leg if leg in guilty)
        return Outcome.REFUTED, named(guilty), (*ordered, *(words for _, words in flips[:1]))
    if flips:
        turned, words = flips[0]
        return Outcome.REFUTED, turned.value if turned else "unknown", (words,)
    if differing:
        name = next(iter(differing))
        reason = f"{differing[name][1][2]}, on {name}: a near-tie that noise explains"
        return Outcome.INCONCLUSIVE, "none", (reason,)
    wanted = next(iter(found.values())).rule.steps
    reason = f"{number_are(wanted, 'token')} the oracle's, and no leg moves them far"
    return Outcome.HELD, "none", (reason,)


def _observed(found: Mapping[str, _Answers], leg: str) -> dict[str, Any]:
    legs: dict[str, Any] = {}
    for one in found.values():
        for each, own in one.divergences().items():
            known = legs.setdefault(each.value, {"kl_max": 0.0, "kl_mean": 0.0})
            known["kl_max"] = max(known["kl_max"], float(own.max()))
            known["kl_mean"] = max(known["kl_mean"], float(own.mean()))
    agreed = [first_difference(one.free, one.oracle) for one in found.values()]
    steps = next(iter(found.values())).rule.steps
    return {
        "agreed": min(steps if each is None else each for each in agreed),
        "leg": leg,
        "legs": {
            name: {key: finite(value) for key, value in own.items()} for name, own in legs.items()
        },
        "smallest_margin": min(
            margin(one.oracle, step) for one in found.values() for step in range(steps)
        ),
    }


def _planted(found: Mapping[str, _Answers]) -> dict[str, Any]:
    """Plant other logits after each leg, and a wrong token; the leg has to be named."""
    planted = caught = 0
    missed: set[str] = set()
    for one in found.values():
        for leg, role in (
            (Leg.PREFILL, (REPLAY, FROM_SENT)),
            (Leg.TRANSFER, (REPLAY, FROM_ARRIVED)),
            (Leg.DECODE, ("subject", 0)),
        ):
            for name, logits in _faulty(one.runs[role]).items():
                after = {leg: replace(one.runs[role], logits=logits)}
                runs = {**one.runs, role: after[leg]}
                planted += 1
                if leg in replace(one, runs=runs).guilty():
                    caught += 1
                else:
                    missed.add(f"{leg.value}: {name}")
        wrong = (one.free.continuation[0] + 1, *one.free.continuation[1:])
        free = {("subject", FREE): replace(one.free, continuation=wrong)}
        planted += 1
        caught += replace(one, runs={**one.runs, **free}).difference() is not None
    faults: dict[str, Any] = {"planted": planted, "caught": caught}
    return {**faults, "missed": sorted(missed)} if missed else faults


def _faulty(capture: Capture) -> dict[str, tuple[Array, ...]]:
    last = np.array(capture.logits[-1])
    poisoned = last.copy()
    poisoned[0, 0] = np.nan
    changed = {"uniform": np.zeros_like(last), "shifted": np.roll(last, 1, 1), "NaN": poisoned}
    return {name: (*capture.logits[:-1], each) for name, each in changed.items()}
