"""Runs as values, and the shared cases of the existing format."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_falsify.routing.documents import Documents, read_documents
from pytest_falsify.routing.gate import Gate, Score
from pytest_falsify.routing.trace import LayerRouting, Routing, RunFacts, Tokens, plain_tokens

EXAMPLES = Path(__file__).parents[4] / "shared" / "data" / "inferoscope" / "examples"
SCHEMAS = EXAMPLES.parent / "schemas" / "v0.1.0"
NEEDS_EXAMPLES = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="needs ../shared")
WHEN = "2026-03-18T12:00:00Z"

GATES = {
    "softmax": Gate(),
    "renormalised": Gate(is_renormalised=True),
    "of chosen": Gate(score=Score.SOFTMAX_OF_CHOSEN),
    "sigmoid": Gate(score=Score.SIGMOID, is_renormalised=True),
    "grouped": Gate(
        score=Score.SIGMOID, is_biased=True, is_renormalised=True, scale=2.5,
        groups=4, chosen_groups=2, shared_experts=1,
    ),
}  # fmt: skip


def make_facts(run_id="run-001"):
    return RunFacts(run_id=run_id, created_at=WHEN, model_id="m", tokenizer_id="t", prompt="hello")


def make_layer(tokens=12, experts=16, active=4, *, gate=None, seed=0, dtype=np.float32):
    gate = gate or Gate()
    random = np.random.default_rng(seed)
    logits = random.normal(size=(tokens, experts)).astype(dtype)
    bias = random.normal(size=experts).astype(np.float32) * 0.3 if gate.is_biased else None
    empty = np.zeros((tokens, active), dtype=np.int64)
    layer = LayerRouting(logits=logits, indices=empty, weights=empty, gate=gate, bias=bias)
    return sent(layer)


def sent(layer):
    """Return the layer as an honest router dispatches it."""
    chosen = layer.recomputed()
    return replace(layer, indices=chosen.indices, weights=chosen.weights.astype(np.float32))


def make_routing(tokens=12, layers=3, *, gate=None, run_id="run-001", seed=0, **sizes):
    return Routing(
        facts=make_facts(run_id),
        tokens=plain_tokens(list(range(tokens)), tuple(f" t{each}" for each in range(tokens))),
        layers={i: make_layer(tokens, gate=gate, seed=seed + i, **sizes) for i in range(layers)},
    )


def disturbed(routing, size, seed=9):
    """Return a run whose logits are off by Gaussian noise, honestly dispatched."""
    random = np.random.default_rng(seed)

    def noisy(layer):
        noise = size * random.normal(size=layer.logits.shape)
        return sent(replace(layer, logits=(layer.logits + noise).astype(layer.logits.dtype)))

    return replace(routing, layers={i: noisy(each) for i, each in routing.layers.items()})


def conformance():
    return (
        json.loads((EXAMPLES / "conformance_cases.json").read_text()) if EXAMPLES.is_dir() else {}
    )


def patched(patch, base="one_token_all_artifacts"):
    """Return an example with a JSON patch applied."""
    found = {name: copy.deepcopy(each) for name, each in read_documents(EXAMPLES / base).present()}
    for step in patch:
        *way, last = step["path"].strip("/").split("/")
        place = found
        for key in way:
            place = place[int(key) if isinstance(place, list) else key]
        if isinstance(place, list):
            _in_list(place, last, step)
        elif step["op"] == "remove":
            del place[last]
        else:
            place[last] = step["value"]
    return Documents(**found)


def _in_list(place, last, step):
    if last == "-":
        place.append(step["value"])
    elif step["op"] == "remove":
        del place[int(last)]
    else:
        place[int(last)] = step["value"]


def timed(routing, starts, ends):
    tokens = routing.tokens
    columns = {name: getattr(tokens, name) for name in Tokens.__slots__}
    columns |= {"starts": np.asarray(starts, float), "ends": np.asarray(ends, float)}
    return replace(routing, tokens=Tokens(**columns))
