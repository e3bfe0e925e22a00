"""Routing out of captures: what an engine showed at the stages of a mixture of experts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.compare.distribution import log_softmax
from pytest_falsify.errors import CaptureError
from pytest_falsify.routing.gate import Gate, Score
from pytest_falsify.routing.recompute import is_misweighed, misdirection
from pytest_falsify.routing.recorder import joined
from pytest_falsify.routing.trace import LayerRouting, Routing, RunFacts, plain_tokens
from pytest_falsify.stages.vocabulary import Site
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_falsify.captures.capture import Capture

    Array = NDArray[Any]

LOGITS, WEIGHTS, INDICES = "moe_router_logits", "moe_router", "moe_router_indices"
STAGES = (LOGITS, WEIGHTS, INDICES)
# A softmax over the chosen alone is a renormalised softmax.
CANDIDATES = tuple(
    Gate(score=score, is_renormalised=is_renormalised)
    for score in (Score.SOFTMAX, Score.SIGMOID)
    for is_renormalised in (False, True)
)


def routing_of(capture: Capture, facts: RunFacts, *, gate: Gate | None = None) -> Routing:
    """Return the routing of a capture, prefill and decode steps in order.

    Args:
        capture: with the stages ``STAGES`` at the same layers in every step.
        facts: how the run came to be, as far as the capture does not say.
        gate: the rule of the model; None: the one that explains what was dispatched.

    Raises:
        CaptureError: when a stage, a step or the rows of a token are missing.
    """
    ids = np.array([*capture.inputs.tokens, *_fed(capture)], dtype=np.int64)
    layers: dict[int, LayerRouting] = {}
    routed = {site.layer or 0 for site in capture.tensors if site.stage == LOGITS}
    for index in sorted(routed):
        parts = [_part(capture, step, index) for step in range(capture.plan.decode_steps + 1)]
        layers[index] = joined(parts)
    if not layers:
        msg = "the capture shows no router"
        raise CaptureError(
            msg, expected=f"a mixture of experts, and the stages {', '.join(STAGES)}"
        )
    found = {index: _with_gate(each, gate) for index, each in layers.items()}
    tokens = plain_tokens(ids)
    logits, logprobs = _answers(capture, ids)
    return Routing(
        facts=facts, tokens=replace(tokens, logits=logits, logprobs=logprobs), layers=found
    )


def facts_of_capture(capture: Capture, *, run_id: str, created_at: str) -> RunFacts:
    """Return what a capture says of how it came to be; times are none, for none were taken."""
    identity = capture.identity
    return RunFacts(
        run_id=run_id,
        created_at=created_at,
        model_id=identity.weights,
        tokenizer_id=identity.weights,
        generation={"decode_steps": capture.plan.decode_steps, "choice": "greedy"},
        capture={
            "engine": identity.engine,
            "versions": dict(identity.versions),
            "weights": identity.weights,
            "settings": dict(identity.settings),
            "device": identity.device_name or identity.device,
            "identity": identity.digest,
            "inputs": capture.inputs.digest,
            "dispatch": "captured",
            "timing": "not measured",
        },
    )


def explained_by(layer: LayerRouting) -> Gate | None:
    """Return the simplest rule that gives the dispatch of a layer from its logits, or None."""
    for each in CANDIDATES:
        tried = replace(layer, gate=each)
        if not is_misweighed(tried).any() and not (misdirection(tried) > 0).any():
            return each
    return None


def _with_gate(layer: LayerRouting, gate: Gate | None) -> LayerRouting:
    return replace(layer, gate=gate or explained_by(layer) or layer.gate)


def _part(capture: Capture, step: int, layer: int) -> LayerRouting:
    found = {}
    for stage in STAGES:
        tensor = capture.tensors.get(Site(step, layer, stage))
        if tensor is None:
            msg = f"the capture lacks {Site(step, layer, stage)}"
            raise CaptureError(msg, expected=f"the stages {', '.join(STAGES)} at every step")
        found[stage] = tensor.array
    if step == 0 and len(found[LOGITS]) != len(capture.inputs.tokens):
        fed = number_of(len(capture.inputs.tokens), "token was", "tokens were")
        msg = f"{len(found[LOGITS])} of {fed} kept"
        raise CaptureError(msg, expected="all positions of the prefill")
    return LayerRouting(
        logits=found[LOGITS], indices=found[INDICES].astype(np.int64), weights=found[WEIGHTS]
    )


def _fed(capture: Capture) -> tuple[int, ...]:
    """Return the tokens that the decode steps were fed."""
    return tuple((capture.inputs.forced or capture.continuation)[: capture.plan.decode_steps])


def _answers(capture: Capture, ids: Array) -> tuple[Array, Array]:
    """Return the logit and log probability that the model gave to each token but the first."""
    logits, logprobs = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
    if not capture.logits:
        return logits, logprobs
    rows = np.concatenate([each.astype(np.float64) for each in capture.logits])[: len(ids) - 1]
    places = np.arange(1, len(rows) + 1)
    logits[places] = rows[places - 1, ids[places]]
    logprobs[places] = log_softmax(rows)[places - 1, ids[places]]
    return logits, logprobs
