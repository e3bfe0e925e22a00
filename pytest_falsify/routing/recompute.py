"""Where what was dispatched is not what the declared gate makes of the router's own logits.

This is the router judged by itself: no other run is asked, so nothing that was inherited counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_falsify.compare.noise import unit_roundoff
from pytest_falsify.routing.gate import Gate, Score, selection, softmax, weigh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_falsify.routing.trace import LayerRouting

    Array = NDArray[Any]

VERSION = "gate/v1"
WEIGHT_ROUNDINGS = 4
"""So many roundings to their own dtype may stand between two honest computations of a weight."""
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
        is_near: Array = (
            np.abs(found - expected) <= allowed * np.abs(expected) + np.finfo(np.float32).tiny
        )
    result: Array = (~(is_near | (layer.indices >= layer.experts))).any(axis=1)
    return result


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
