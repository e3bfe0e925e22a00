"""`invariance`: what must not matter does not: the subject is compared with itself, run otherwise.

No oracle is needed: a relation says how the same tokens are run in two ways that have to give one
answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.base import (
    CAPTURE_NAME,
    OBSERVED,
    Captures,
    Compare,
    Request,
    Variant,
    by_input,
)
from pytest_falsify.checks.planting import Pair, plant
from pytest_falsify.checks.rule import Rule
from pytest_falsify.checks.served import asks_server
from pytest_falsify.checks.verdict import (
    Judged,
    Verdict,
    held,
    inconclusive,
    nothing_compared,
    refuted,
    worst,
)
from pytest_falsify.compare.comparison import counting
from pytest_falsify.compare.limits import LIMITS_SCHEMA, parse_limits
from pytest_falsify.disaggregation.caches import POISON
from pytest_falsify.disaggregation.legs import Leg
from pytest_falsify.engines.registry import engine, engine_names
from pytest_falsify.errors import ContractError
from pytest_falsify.stages.vocabulary import STAGES, Site
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.compare.limits import Violation
    from pytest_falsify.contracts.model import CaptureSpec

LOGITS = "lm_head"
DECODE_STEPS = 4
STATIC = "static"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """Two ways to run the same tokens.

    Attributes:
        option: the engine option that makes the difference.
        usual: from the claim's parameters, that option the one way; None: as the contract has it.
        other: the same the other way.
        leg: where the two ways part; None: in prefill or decode, as the first token beyond tells.
        has_decode: whether decode steps follow the prefill.
    """

    option: str
    other: Callable[[Claim], Mapping[str, Any]]
    leg: Leg | None = None
    usual: Callable[[Claim], Mapping[str, Any]] | None = None
    has_decode: bool = True


def _static(poison: float | str | None) -> dict[str, Any]:
    cache = {"kind": STATIC, "spare": 16}
    return {"cache": cache if poison is None else {**cache, "poison": poison}}


def _batch(claim: Claim, **more: str) -> dict[str, Any]:
    return {"size": claim.parameter("size", 3), **more}


def _blocks(claim: Claim, order: str) -> dict[str, Any]:
    return {"block": claim.parameter("block", 16), "order": order}


RELATIONS: Mapping[str, Relation] = {
    "chunked": Relation(
        option="prefill",
        other=lambda claim: {"chunk": claim.parameter("chunk", 16)},
        leg=Leg.PREFILL,
    ),
    "batch": Relation(option="batch", other=_batch),
    "padding": Relation(
        option="batch",
        usual=lambda claim: _batch(claim, padding="left"),
        other=lambda claim: _batch(claim, padding="right"),
        leg=Leg.PREFILL,
        has_decode=False,
    ),
    "canaries": Relation(
        option="decode",
        usual=lambda _claim: _static(None),
        other=lambda claim: _static(claim.parameter("poison", 1e4)),
        leg=Leg.DECODE,
    ),
    "block-order": Relation(
        option="transfer",
        usual=lambda claim: _blocks(claim, "as they are"),
        other=lambda claim: _blocks(claim, "reversed"),
        leg=Leg.TRANSFER,
    ),
}
RESUMED = "resumed"
_COUNT = {"type": "integer", "minimum": 1, "maximum": 100_000}


class Invariance:
    """Refuted by the first logits that are not those of the other way to run the same tokens."""

    kind: ClassVar[str] = "invariance"
    parameters: ClassVar[Mapping[str, Any]] = {
        "subject": CAPTURE_NAME,
        "relation": {
            "description": "what must not matter: prefill in chunks, batch 1 or `size`, left or "
            "right padding, poison in unused cache slots, the order of blocks in a transfer, or "
            "prefilling `at` tokens and decoding the next ones instead of prefilling all",
            "enum": [*RELATIONS, RESUMED],
        },
        "at": {
            "description": "of `resumed`: how many tokens are prefilled, from the end where "
            "negative; name what lies around the borders of blocks and windows",
            "type": "array",
            "items": {"type": "integer"},
            "minItems": 1,
            "uniqueItems": True,
        },
        "decode_steps": {**_COUNT, "description": f"1 for `resumed`, else {DECODE_STEPS}"},
        "chunk": {**_COUNT, "description": "how many tokens a chunk of the prefill has; 16"},
        "size": {
            **_COUNT,
            "minimum": 2,
            "maximum": 1024,
            "description": "how many sequences a batch has; 3",
        },
        "block": {**_COUNT, "description": "how many tokens a block of the cache has; 16"},
        "poison": {**POISON, "description": "of `canaries`: what unused slots hold; 10,000"},
        "expect": LIMITS_SCHEMA,
        "inputs": OBSERVED["inputs"],
    }
    required: ClassVar[tuple[str, ...]] = ("subject", "relation", "expect")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the subject the one way (run 0) and the other way.

        Raises:
            ContractError: when the subject's engine cannot be run the other way.
        """
        _must_be_runnable(claim)
        is_resumed = claim.parameter("relation") == RESUMED
        asked = _resumed if is_resumed else _otherwise
        return tuple(each for name in claim.inputs for each in asked(claim, name))

    def judge(self, claim: Claim, captures: Captures, compare: Compare) -> Verdict:
        """Compare the logits of every token that both ways have run."""
        mute = [each.input for each, run in captures.items() if not sum(map(len, run.logits))]
        if mute:
            return inconclusive(f"the subject gave no logits on {mute[0]}")
        limits = parse_limits(claim.parameter("expect"))
        rule = Rule(limits=limits)
        compare = counting(compare, limits.tolerances)
        judged: list[Judged] = []
        pairs: list[Pair] = []
        prefilled: dict[str, int] = {}
        for name, runs in by_input(captures).items():
            usual = runs["subject", 0]
            for (_, run), other in runs.items():
                if run:
                    sides = _by_position(other), _by_position(usual, like=other)
                    label = f"{name}, {len(other.inputs.tokens)} tokens prefilled"
                    judged.append(rule.judged(label, compare(*sides)))
                    prefilled[label] = len(usual.inputs.tokens)
                    pairs.append(
                        Pair(
                            subject=sides[0],
                            oracle=sides[1],
                            compare=compare,
                            refutes=rule.refutes,
                        )
                    )
        observed = {"relation": claim.parameter("relation"), "worst": worst(tuple(judged))}
        refutation = _refutation(tuple(judged), prefilled, captures, observed)
        return refutation or _passed(tuple(judged), pairs, captures, observed)


def _refutation(
    judged: tuple[Judged, ...],
    prefilled: Mapping[str, int],
    captures: Captures,
    observed: Mapping[str, Any],
) -> Verdict | None:
    """Return the verdict on the first token beyond, with the leg where the two ways part."""
    for one in judged:
        for each in one.violations:
            leg = _leg(observed["relation"], each, prefilled[one.label]).value
            reason = f"{leg}: `{observed['relation']}` matters, on {one.label}: {each}"
            return refuted([reason], captures, observed={**observed, "leg": leg}, judged=judged)
    return None


def _passed(
    judged: tuple[Judged, ...], pairs: list[Pair], captures: Captures, observed: Mapping[str, Any]
) -> Verdict:
    if lack := nothing_compared(judged):
        return inconclusive(lack, judged)
    comparisons = number_of(len(judged), "comparison")
    reason = f"`{observed['relation']}` changes nothing beyond its limits in {comparisons}"
    observed = {**observed, "leg": "none"}
    return held(reason, captures, observed=observed, faults=plant(pairs), judged=judged)


def _leg(relation: str, first: Violation, prefilled: int) -> Leg:
    if relation == RESUMED:
        return Leg.DECODE
    known = RELATIONS[relation].leg
    return known or (Leg.PREFILL if first.position.get("t", 0) < prefilled else Leg.DECODE)


def _must_be_runnable(claim: Claim) -> None:
    spec = claim.contract.captures[claim.parameter("subject")]
    relation = claim.parameter("relation")
    path, line = claim.contract.path, claim.check.line
    wanted = f"a subject {_runnable_by(relation)}"
    if asks_server(spec):
        msg = (
            f"relation `{relation}` runs the subject in two ways, and engine {spec.engine} asks a "
            "server, which runs a prompt its own way and shows no logits"
        )
        remedy = "start a server each way, and compare the two by `distribution` (docs/served.md)"
        raise ContractError(msg, path=path, line=line, expected=wanted, remedy=remedy)
    possible = [*_relations_of(spec.engine), RESUMED]
    if relation not in possible:
        option = RELATIONS[relation].option
        msg = f"engine {spec.engine} has no `{option}`, which relation `{relation}` changes"
        remedy = (
            f"name such a subject, or a relation that engine {spec.engine} can be run by: "
            f"{', '.join(possible)}"
        )
        raise ContractError(msg, path=path, line=line, expected=wanted, remedy=remedy)


def _relations_of(name: str) -> list[str]:
    """Return the relations whose option an engine has."""
    return [key for key, each in RELATIONS.items() if each.option in engine(name).options]


def _runnable_by(relation: str) -> str:
    if relation == RESUMED:
        return "that runs here"
    names = [each for each in engine_names() if relation in _relations_of(each)]
    return f"of engine {' or '.join(names)}"


def _otherwise(claim: Claim, name: str) -> tuple[Request, ...]:
    relation = RELATIONS[claim.parameter("relation")]
    spec = claim.contract.captures[claim.parameter("subject")]
    steps = claim.parameter("decode_steps", DECODE_STEPS) if relation.has_decode else 0
    usual = Request(
        role="subject",
        capture=spec.name,
        input=name,
        plan=Plan(decode_steps=steps),
        variant=Variant(options=_changed(spec, relation.option, relation.usual, claim)),
    )
    options = _changed(spec, relation.option, relation.other, claim)
    variant = Variant(options=options, forced_by=usual if steps else None)
    return usual, replace(usual, run=1, variant=variant)


def _changed(
    spec: CaptureSpec,
    option: str,
    change: Callable[[Claim], Mapping[str, Any]] | None,
    claim: Claim,
) -> dict[str, Any]:
    """Return one option of a capture with what a relation changes in it."""
    return {} if change is None else {option: {**spec.options.get(option, {}), **change(claim)}}


def _resumed(claim: Claim, name: str) -> tuple[Request, ...]:
    steps = claim.parameter("decode_steps", 1)
    usual = Request(role="subject", capture=claim.parameter("subject"), input=name, plan=Plan())
    others = [
        replace(
            usual,
            run=run,
            plan=Plan(decode_steps=min(steps, -at) if at < 0 else steps),
            variant=Variant(prefilled=at),
        )
        for run, at in enumerate(claim.parameter("at", [-1]), start=1)
    ]
    return usual, *others


def _by_position(capture: Capture, *, like: Capture | None = None) -> Capture:
    """Return a capture that shows nothing but the logits of every token, at step 0.

    Args:
        capture: whose logits.
        like: keep those at the positions that this one has.
    """
    count = sum(map(len, (capture if like is None else like).logits))
    logits = np.concatenate(capture.logits)[:count]
    positions = tuple(range(len(logits)))
    tensor = CapturedTensor(array=logits, dims=STAGES[LOGITS].dims, positions=positions)
    fed = capture.inputs.tokens + (capture.inputs.forced or capture.continuation)
    return replace(
        capture,
        inputs=replace(capture.inputs, tokens=fed[:count], forced=()),
        tensors={Site(0, None, LOGITS): tensor},
        missing=(),
    )
