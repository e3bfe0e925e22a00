"""The digest of what a falsifier means, so that evidence knows which claim it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.canonical import canonical_bytes, digest
from pytest_falsify.contracts.validate import CAPTURE_KEYS, member

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.contracts.model import CaptureSpec, Contract, Falsifier, InputSpec
    from pytest_falsify.contracts.problems import Steps


def entry_digest(contract: Contract, falsifier: Falsifier) -> str:
    """Return ``sha256:<hex>`` over the meaning of a falsifier.

    It covers the check's kind and parameters, what the captures and inputs it names declare, and
    ``discharge``. It does not cover prose, ids, the order of keys, line numbers, the names that
    captures and inputs go by, or the targets: those have digests of their own. Without a check
    the meaning is the ``test:`` string, or nothing.
    """
    check = falsifier.check
    if check is None:
        return digest({"test": falsifier.test, "discharge": dict(falsifier.discharge)})
    parameters = dict(check.parameters)
    meaning = {
        "kind": check.kind,
        "parameters": _parameters(parameters),
        "captures": {
            role: _capture(each) for role, each in captures_of(contract, falsifier).items()
        },
        "inputs": sorted(map(_input, inputs_of(contract, falsifier)), key=canonical_bytes),
        "discharge": dict(falsifier.discharge),
    }
    return digest(meaning)


def captures_of(contract: Contract, falsifier: Falsifier) -> dict[str, CaptureSpec]:
    """Return the captures that a falsifier's check names, by what they are to it."""
    parameters = dict(falsifier.check.parameters) if falsifier.check else {}
    return {
        ".".join(map(str, steps)): contract.captures[name]
        for steps in CAPTURE_KEYS
        if (name := member(parameters, steps)) is not None
    }


def inputs_of(contract: Contract, falsifier: Falsifier) -> tuple[InputSpec, ...]:
    """Return the inputs that a falsifier's check is tried with, in the order of their names."""
    return tuple(contract.inputs[name] for name in sorted(set(contract.inputs_of(falsifier))))


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters without names, and with one spelling of each population."""
    kept = {key: value for key, value in parameters.items() if key != "inputs"}
    for steps in CAPTURE_KEYS:
        kept = _without(kept, steps)
    if isinstance(kept.get("stages"), list):
        kept["stages"] = sorted(set(kept["stages"]))
    if "layers" in kept:
        kept["layers"] = _layer_ranges(kept["layers"])
    return kept


def _without(value: dict[str, Any], steps: Steps) -> dict[str, Any]:
    first = str(steps[0])
    if first not in value:
        return value
    if len(steps) == 1:
        return {key: inner for key, inner in value.items() if key != first}
    return {**value, first: _without(value[first], steps[1:])}


def _layer_ranges(layers: str | list[int]) -> str | list[list[int]]:
    if layers == "all":
        return "all"
    if isinstance(layers, str):
        first, end = layers.split("..")
        return [[int(first), int(end)]]
    ranges: list[list[int]] = []
    for layer in sorted({int(layer) for layer in layers}):
        if ranges and ranges[-1][1] == layer:
            ranges[-1][1] = layer + 1
        else:
            ranges.append([layer, layer + 1])
    return ranges


def _capture(spec: CaptureSpec) -> dict[str, Any]:
    return {"engine": spec.engine, "options": dict(spec.options)}


def _input(spec: InputSpec) -> dict[str, Any]:
    tokens = None if spec.tokens is None else list(spec.tokens)
    if spec.dataset is not None:
        return {"dataset": spec.dataset, "field": spec.field, "limit": spec.limit}
    meaning = {"text": spec.text, "tokens": tokens, "file": spec.file}
    return {**meaning, "forced": list(spec.forced)} if spec.forced else meaning
