"""Where what was dispatched is not what the declared gate makes of the router's own logits.

This is the router judged by itself: no other run is asked, so nothing that was inherited counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_falsify.compare.noise import unit_roundoff
from pytest_falsify.routing.gate import (
    Gate,
    Score,
    group_scores,
    scores,
    selection,
    softmax,
    weigh,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_falsify.routing.trace import LayerRouting

    Array = NDArray[Any]

VERSION = "gate/v1"
WEIGHT_ROUNDINGS = 4
"""So many roundings to their own dtype may stand between two honest computations of a weight."""
SMALLEST = float(np.finfo(np.float32).tiny)
SCORE_ROUNDING = 1e-6
"""Scores that are nearer to each other, relatively, are one score to a softmax in float32."""
WEIGHT_TOLERANCE = 1e-5
"""What a softmax in float32 costs, relative to a weight."""


class Disagreement(NamedTuple):
    """The tokens of a layer at which the dispatch is not the recomputed one.

    Attributes:
        rows: (n,) which tokens.
        indices: (n, active) what the gate chooses there.
        weights: (n, active) what it weighs them with.
    """

    rows: Array
    indices: Array
    weights: Array


def disagreement(layer: LayerRouting) -> Disagreement:
    """Return where ids or weights are not those that the gate gives, and what it gives there."""
    is_other = is_misdirected(layer) | is_misweighed(layer)
    rows = np.flatnonzero(is_other)
    again = layer.rows(0, 0) if not len(rows) else _some(layer, rows)
    chosen = again.recomputed()
    return Disagreement(rows, chosen.indices, chosen.weights)


def is_misdirected(layer: LayerRouting) -> Array:
    """Tell at which tokens an expert was left out that scores higher than one that was chosen."""
    by = _order(layer)
    if by.shape[0] == 0:
        return np.zeros(0, dtype=bool)
    ids = np.minimum(layer.indices, layer.experts - 1).astype(np.intp)
    found = np.take_along_axis(by, ids, axis=1)
    weakest = found.min(axis=1, keepdims=True)
    better = (by > weakest).sum(axis=1)
    is_other = better > (found > weakest).sum(axis=1)
    result: Array = is_other | has_repeats(layer) | ~np.isfinite(weakest[:, 0])
    return result


def is_misweighed(layer: LayerRouting) -> Array:
    """Tell at which tokens a weight is not what the gate gives to the expert that was chosen."""
    ids = np.minimum(layer.indices, layer.experts - 1).astype(np.intp)
    with np.errstate(invalid="ignore"):
        expected = _weights(layer, ids)
        found = layer.weights.astype(np.float64)
        allowed = WEIGHT_ROUNDINGS * unit_roundoff(layer.weights.dtype) + WEIGHT_TOLERANCE
        error = np.abs(found - expected) - SMALLEST
        is_near = np.asarray(np.less_equal(error, allowed * np.abs(expected)), dtype=bool)
    return np.asarray((~is_near & (layer.indices < layer.experts)).any(axis=1))


def misdirection(layer: LayerRouting) -> Array:
    """Return by how much the best expert that was left out beats the weakest that was chosen.

    In the scores that the choice is made by; 0 where the choice is the gate's, infinite where it is
    none: an expert twice. What rounding in float32 explains is 0. Of groups of experts it is by how
    much a group that was left out beats one that was chosen from.
    """
    margins = np.zeros(len(layer.logits))
    rows = np.flatnonzero(is_misdirected(layer))
    if not len(rows):
        return margins
    some = _some(layer, rows)
    by = selection(some.logits, some.gate, some.bias)
    ids = np.minimum(some.indices, some.experts - 1).astype(np.intp)
    weakest = np.take_along_axis(by, ids, axis=1).min(axis=1)
    is_shut = np.isneginf(weakest)
    if is_shut.any():
        weakest = np.where(is_shut, by.max(axis=1) - _group_gap(some, ids), weakest)
    left_out = by.copy()
    np.put_along_axis(left_out, ids, -np.inf, axis=1)
    best = np.where(is_shut, by.max(axis=1), left_out.max(axis=1))
    found = np.where(has_repeats(some), np.inf, best - weakest)
    found = np.where(np.isnan(found), np.inf, found)
    margins[rows] = np.where(found > SCORE_ROUNDING * np.abs(best), found, 0.0)
    return margins


def _group_gap(layer: LayerRouting, ids: Array) -> Array:
    """Return by how much the weakest open group beats the weakest group that was chosen from."""
    gate = layer.gate
    open_scores = scores(layer.logits, gate) + (0.0 if layer.bias is None else layer.bias)
    groups = group_scores(open_scores, gate.groups)
    ordered = -np.sort(-groups, axis=1)
    chosen = np.take_along_axis(groups, ids // (layer.experts // gate.groups), axis=1)
    gap: Array = ordered[:, gate.chosen_groups - 1] - chosen.min(axis=1)
    return gap


def has_repeats(layer: LayerRouting) -> Array:
    """Tell at which tokens one expert was chosen twice; dropped places are no expert."""
    ordered = np.sort(layer.indices, axis=1).astype(np.int64)
    is_twice = (np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] < layer.experts)
    result: Array = is_twice.any(axis=1)
    return result


def _order(layer: LayerRouting) -> Array:
    """Return something of the order that the gate chooses by: the logits where that is all."""
    if layer.gate.is_plain and layer.bias is None:
        return layer.logits
    return selection(layer.logits, layer.gate, layer.bias)


def _weights(layer: LayerRouting, ids: Array) -> Array:
    if _is_softmax_of_all(layer.gate) and layer.logits.dtype == np.float32:
        return _softmax_at(layer.logits, ids, layer.gate)
    return weigh(layer.logits, ids, layer.gate)


def _is_softmax_of_all(gate: Gate) -> bool:
    return gate.score is Score.SOFTMAX


def _softmax_at(logits: Array, ids: Array, gate: Gate) -> Array:
    """Return the same as ``weigh`` in float32, without the probabilities that nobody asks for."""
    chosen = np.take_along_axis(logits, ids, axis=1)
    if gate.is_renormalised:
        return softmax(chosen) * gate.scale
    top = logits.max(axis=1, keepdims=True)
    total = np.exp(logits - top).sum(axis=1, keepdims=True, dtype=np.float64)
    weights: Array = np.exp((chosen - top).astype(np.float64)) / total * gate.scale
    return weights


def _some(layer: LayerRouting, rows: Array) -> LayerRouting:
    from dataclasses import replace

    return replace(
        layer,
        logits=layer.logits[rows],
        indices=layer.indices[rows],
        weights=layer.weights[rows],
    )
