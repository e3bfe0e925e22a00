"""Routing faults that have shipped, planted in copies of what was recorded.

Each is a name and a function from a layer to the faulty layer; None says that the fault does not
exist there: a bias that there is not cannot be left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from pytest_falsify.routing.gate import Score, choose, weigh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from pytest_falsify.routing.trace import LayerRouting, Routing

    Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingFault:
    """One fault."""

    name: str
    plant: Callable[[LayerRouting], LayerRouting | None]

    def planted(self, routing: Routing) -> Routing | None:
        """Return a faulty copy of a run, or None where the fault does not exist or does nothing."""
        layers = {index: self.plant(each) or each for index, each in routing.layers.items()}
        if all(_is_same(each, routing.layers[index]) for index, each in layers.items()):
            return None
        return replace(routing, layers=layers)


def planted(routing: Routing) -> Iterator[tuple[str, Routing]]:
    """Yield every fault that exists in a run, by name, with the faulty run."""
    for fault in FAULTS:
        faulty = fault.planted(routing)
        if faulty is not None:
            yield fault.name, faulty


def _is_same(a: LayerRouting, b: LayerRouting) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("logits", "indices", "weights")
    )


def _sent(layer: LayerRouting, indices: Array) -> LayerRouting:
    weights = weigh(layer.logits, indices, layer.gate)
    return replace(
        layer,
        indices=indices.astype(layer.indices.dtype),
        weights=weights.astype(layer.weights.dtype),
    )


def _off_by_one(layer: LayerRouting) -> LayerRouting | None:
    """Send to the experts ranked 2 to k + 1."""
    if layer.active == layer.experts:
        return None
    ranked = choose(layer.logits, layer.active + 1, layer.gate, layer.bias).indices
    return _sent(layer, ranked[:, 1:])


def _not_renormalised(layer: LayerRouting) -> LayerRouting | None:
    if not layer.gate.is_renormalised:
        return None
    gate = replace(layer.gate, is_renormalised=False)
    ids = np.minimum(layer.indices, layer.experts - 1).astype(np.intp)
    weights = weigh(layer.logits, ids, gate)
    return replace(layer, weights=weights.astype(layer.weights.dtype))


def _renormalised(layer: LayerRouting) -> LayerRouting | None:
    """Renormalise where the model does not, and where that changes anything."""
    is_whole = layer.gate.is_renormalised or layer.gate.score is Score.SOFTMAX_OF_CHOSEN
    if is_whole:
        return None
    wide = layer.weights.astype(np.float64)
    return replace(
        layer, weights=(wide / wide.sum(axis=1, keepdims=True)).astype(layer.weights.dtype)
    )


def _unbiased(layer: LayerRouting) -> LayerRouting | None:
    if layer.bias is None:
        return None
    return _sent(layer, choose(layer.logits, layer.active, layer.gate).indices)


def _ungrouped(layer: LayerRouting) -> LayerRouting | None:
    if layer.gate.groups == layer.gate.chosen_groups:
        return None
    gate = replace(layer.gate, groups=1, chosen_groups=1)
    return _sent(layer, choose(layer.logits, layer.active, gate, layer.bias).indices)


def _exchanged(layer: LayerRouting) -> LayerRouting | None:
    """Send to each other's tokens the two experts that most tokens go to."""
    first, second = np.argsort(-layer.load(), kind="stable")[:2].tolist()
    table = np.arange(layer.experts + 1)
    table[[first, second]] = table[[second, first]]
    return replace(layer, indices=table[layer.indices].astype(layer.indices.dtype))


def _in_bfloat16(layer: LayerRouting) -> LayerRouting | None:
    """Round the logits to bfloat16 before the choice; those that it holds exactly stay."""
    logits = layer.logits.astype(ml_dtypes.bfloat16).astype(layer.logits.dtype)
    chosen = choose(logits, layer.active, layer.gate, layer.bias)
    rounded = replace(layer, logits=logits)
    return None if np.array_equal(logits, layer.logits) else _sent(rounded, chosen.indices)


FAULTS = (
    RoutingFault(name="top-k off by one", plant=_off_by_one),
    RoutingFault(name="renormalisation left out", plant=_not_renormalised),
    RoutingFault(name="renormalised needlessly", plant=_renormalised),
    RoutingFault(name="bias left out", plant=_unbiased),
    RoutingFault(name="groups ignored", plant=_ungrouped),
    RoutingFault(name="two experts exchanged", plant=_exchanged),
    RoutingFault(name="router in bfloat16", plant=_in_bfloat16),
)
