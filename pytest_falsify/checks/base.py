"""What a check is: it says which captures it needs, and judges them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pytest_falsify.captures.capture import Capture
from pytest_falsify.compare.alignment import ALIGN_SCHEMA
from pytest_falsify.compare.comparison import Comparison

if TYPE_CHECKING:
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """How a run differs from what the contract declares.

    Attributes:
        options: engine options over those of the capture.
        prefilled: how many tokens of the input are prefilled; each one after them is fed to a
            decode step. None: all are prefilled.
        forced_by: the request whose greedy tokens the decode steps are fed.
        resumes: the request whose cache the run decodes from.
        sent: the cache as it was sent, and not as it arrived.
    """

    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    prefilled: int | None = None
    forced_by: Request | None = None
    resumes: Request | None = None
    sent: bool = False

    def of(self, captures: Captures) -> dict[str, Any]:
        """Return what a maker of captures is to be told beyond the contract.

        Args:
            captures: those that were made before.
        """
        forced = captures[self.forced_by].continuation if self.forced_by else ()
        told = {
            "options": self.options,
            "prefilled": self.prefilled,
            "forced": forced,
            "resumes": captures[self.resumes] if self.resumes else None,
            "sent": self.sent or None,
        }
        return {name: value for name, value in told.items() if value not in ({}, None, ())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One capture that a check needs.

    Attributes:
        role: ``subject``, ``oracle`` or ``control``; the evidence carries the digests of the first
            two, and the control's as part of the oracle's.
        capture: the name of the capture in the contract.
        input: the name of the input in the contract.
        run: numbers repeated runs.
        is_fresh: run the model anew instead of sharing a capture at hand.
        variant: how the run differs from what the contract declares, if it does.
    """

    role: str
    capture: str
    input: str
    plan: Plan
    run: int = 0
    is_fresh: bool = False
    variant: Variant | None = None


Captures = Mapping[Request, Capture]
Compare = Callable[[Capture, Capture], Comparison]
"""Compares the subject's capture (first) with the oracle's (second)."""


class Check(Protocol):
    """A kind of test, chosen by ``check.kind``."""

    kind: ClassVar[str]
    parameters: ClassVar[Mapping[str, Any]]
    """JSON Schema of each parameter."""
    required: ClassVar[tuple[str, ...]]

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Return the captures that it needs."""

    def judge(self, claim: Claim, captures: Captures, compare: Compare) -> Verdict:
        """Judge what was captured. It decides on nothing else, so it can be replayed."""


def stages_plan(claim: Claim) -> Plan:
    """Return what a check of stages observes: an answer only where tokens are decoded."""
    steps = claim.parameter("decode_steps", 0)
    return claim.plan(decode_steps=steps, needs_answer=steps > 0)


def pairs(
    claim: Claim, plan: Plan, *, roles: tuple[str, str] = ("subject", "oracle")
) -> tuple[Request, ...]:
    """Return the requests of a subject and an oracle on every input of a claim."""
    return tuple(
        Request(role=role, capture=claim.parameter(role), input=name, plan=plan)
        for name in claim.inputs
        for role in roles
    )


def control_requests(claim: Claim, plan: Plan) -> tuple[Request, ...]:
    """Return the requests of the control that a claim's ``noise`` names, on every input."""
    noise = claim.parameter("noise")
    if noise is None:
        return ()
    return tuple(
        Request(role="control", capture=noise["control"], input=name, plan=plan)
        for name in claim.inputs
    )


def by_input(captures: Captures) -> dict[str, dict[tuple[str, int], Capture]]:
    """Return the captures by input, then by role and run."""
    found: dict[str, dict[tuple[str, int], Capture]] = {}
    for request, capture in captures.items():
        found.setdefault(request.input, {})[request.role, request.run] = capture
    return found


CAPTURE_NAME: Mapping[str, Any] = {
    "type": "string",
    "description": "the name of a capture of this contract",
}
INPUTS: Mapping[str, Any] = {
    "description": "the inputs to try; all of the contract's by default",
    "type": "array",
    "items": {"type": "string"},
    "minItems": 1,
    "uniqueItems": True,
}
ANSWERS: Mapping[str, Any] = {"subject": CAPTURE_NAME, "oracle": CAPTURE_NAME, "inputs": INPUTS}
"""The parameters of a check that compares what two runs answer, and looks at no stage."""
OBSERVED: Mapping[str, Any] = {
    "stages": {
        "description": "the stages to observe, in any order, or `all` that the engine can show",
        "oneOf": [
            {"const": "all"},
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True},
        ],
    },
    "layers": {
        "description": "`all`, a list of layers, or `a..b` with b left out",
        "oneOf": [
            {"const": "all"},
            {"type": "string", "pattern": r"^\d+\.\.\d+$"},
            {
                "type": "array",
                "items": {"type": "integer", "minimum": 0},
                "minItems": 1,
                "uniqueItems": True,
            },
        ],
    },
    "positions": {
        "description": "the tokens of the prefill to look at: `all`, `last`, or a list, counted "
        "from the end where negative",
        "oneOf": [
            {"enum": ["all", "last"]},
            {"type": "array", "items": {"type": "integer"}, "minItems": 1, "uniqueItems": True},
        ],
    },
    "inputs": INPUTS,
}
DECODE_STEPS: Mapping[str, Any] = {
    "description": "how many tokens are decoded after the prefill, and looked at as well; 0",
    "type": "integer",
    "minimum": 0,
    "maximum": 100_000,
}
PAIR: Mapping[str, Any] = {
    "subject": CAPTURE_NAME,
    "oracle": CAPTURE_NAME,
    **OBSERVED,
    "align": ALIGN_SCHEMA,
}
