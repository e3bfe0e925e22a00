"""A model served by two workers beside the oracle: what `pytest-falsify trace` runs and tells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_falsify._loading import must_be_options
from pytest_falsify._maker import requested
from pytest_falsify.checks.claim import Claim
from pytest_falsify.checks.kv import DECODE_STEPS, Kv, legs_of
from pytest_falsify.checks.side_by_side import Standing
from pytest_falsify.cli.capturing import ids
from pytest_falsify.cli.claims import blocked, maker_of
from pytest_falsify.cli.leg_rows import of_legs
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.contracts.loader import parse
from pytest_falsify.contracts.model import (
    CaptureSpec,
    CheckSpec,
    Contract,
    Falsifier,
    InputSpec,
    Target,
)
from pytest_falsify.disaggregation.legs import Leg, named
from pytest_falsify.errors import ContractError
from pytest_falsify.words import number_are

if TYPE_CHECKING:
    from collections.abc import Mapping

PROMPT = "prompt"
ORACLE, SUBJECT = "oracle", "subject"
ENGINES = {ORACLE: "transformers", SUBJECT: "disaggregated"}
EQUAL = {"mismatched": {"max": 0}}
"""What is allowed where nothing says it."""
_SHARED = ("subject", "oracle", "noise", "layers", "inputs")
"""What falsifiers of other kinds have in common with one about caches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What became of the legs.

    Attributes:
        leg: the first that is beyond, ``none`` or ``undecided``.
        reasons: why, the first leg first.
        rows: by input; see ``leg_rows``.
    """

    leg: str
    standing: Standing
    reasons: tuple[str, ...]
    rows: Mapping[str, tuple[dict[str, Any], ...]]


def as_kv(claim: Claim, expect: Mapping[str, Any] | None) -> Claim:
    """Return a claim with a subject and an oracle as one about the caches of its legs.

    Args:
        claim: of any such kind.
        expect: what is allowed, instead of what the claim allows.

    Raises:
        ContractError: when it has no subject or no oracle.
    """
    check = claim.check
    if not {SUBJECT, ORACLE} <= set(check.parameters):
        msg = f"{claim.falsifier.id} has no subject and oracle to trace between"
        raise ContractError(msg, path=claim.contract.path, line=claim.falsifier.line)
    shared = {name: each for name, each in check.parameters.items() if name in _SHARED}
    shared["decode_steps"] = claim.parameter(
        "decode_steps", claim.parameter("new_tokens", DECODE_STEPS)
    )
    if check.kind == Kv.kind and "expect" in check.parameters:
        shared["expect"] = claim.parameter("expect")
    if expect or not {"expect", "noise"} & set(shared):
        shared["expect"] = expect or EQUAL
    as_check = replace(check, kind=Kv.kind, parameters=shared)
    return replace(claim, falsifier=replace(claim.falsifier, check=as_check))


def of_model(
    model: str,
    settings: Mapping[str, str | None],
    *,
    text: str | None,
    tokens: str | None,
    new_tokens: int,
    device: str,
) -> Claim:
    """Return the claim that a model gives the same caches in two ways of running it.

    Args:
        model: a folder, or a name in a model hub.
        settings: YAML of ``oracle`` and ``subject``: an engine and its options.
        text: what the model is fed.
        tokens: token ids instead, with commas between.
        new_tokens: how many decode steps are looked at.
        device: see ``Target``.

    Raises:
        FalsifyError: when a setting is wrong, or nothing is to be fed.
    """
    if (text is None) == (tokens is None):
        msg = "a trace of a model feeds it one prompt"
        raise ContractError(msg, expected="--text or --tokens")
    fed = InputSpec(
        name=PROMPT, line=0, text=text, tokens=None if tokens is None else ids("--tokens", tokens)
    )
    captures = {name: _spec(name, settings.get(name)) for name in ENGINES}
    if len({repr((each.engine, each.options)) for each in captures.values()}) == 1:
        msg = "--baseline and --target are the same, which agrees with itself"
        raise ContractError(msg, expected="settings that differ in their engine or its options")
    folder = str(Path(model).resolve()) if Path(model).is_dir() else model
    parameters = {SUBJECT: SUBJECT, ORACLE: ORACLE, "decode_steps": new_tokens}
    check = CheckSpec(kind=Kv.kind, line=0, parameters=parameters)
    return Claim(
        contract=Contract(
            path=Path.cwd() / "trace", id="TRACE", captures=captures, inputs={PROMPT: fed}
        ),
        falsifier=Falsifier(id="TRACE", line=0, check=check),
        target=Target(name="model", model=folder, line=0, device=device),
    )


def _spec(name: str, text: str | None) -> CaptureSpec:
    place = Path({ORACLE: "--baseline", SUBJECT: "--target"}[name])
    found = parse(text.encode(), place).data if text else {}
    if not isinstance(found, dict):
        msg = f"{place} {text} is no mapping"
        raise ContractError(msg, expected="'{engine: disaggregated, transfer: {codec: int8}}'")
    options = {key: value for key, value in found.items() if key != "engine"}
    engine = found.get("engine", ENGINES[name])
    must_be_options(engine, options)
    return CaptureSpec(name=name, engine=engine, line=0, options=options)


def traced(claim: Claim, *, may_run_commands: bool) -> Traced:
    """Run both sides of a claim about caches and say what became of the legs."""
    make = maker_of(claim, may_run_commands=may_run_commands)
    with blocked():
        captures = requested(make, Kv().requests(claim))
    found = legs_of(claim, captures, compare_captures)
    rows = {name: tuple(of_legs(legs, compare_captures)) for name, legs in found.items()}
    guilty = [
        (leg, f"on {name}: {legs.guilty[leg]}")
        for leg in Leg
        for name, legs in found.items()
        if leg in legs.guilty
    ]
    unsure = [f"on {name}: {why}" for name, legs in found.items() for why in legs.undecided]
    if guilty:
        told = tuple(f"{leg.value}, {why}" for leg, why in guilty)
        return Traced(
            leg=named(leg for leg, _ in guilty), standing=Standing.BEYOND, reasons=told, rows=rows
        )
    if unsure or not any(rows.values()):
        told = tuple(unsure) or ("nothing was compared",)
        return Traced(leg="undecided", standing=Standing.UNDECIDED, reasons=told, rows=rows)
    told = (f"{number_are(sum(map(len, rows.values())), 'comparison')} within what is allowed",)
    return Traced(leg="none", standing=Standing.WITHIN, reasons=told, rows=rows)
