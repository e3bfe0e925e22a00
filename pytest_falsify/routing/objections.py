"""What speaks against a subject's routing, in sentences, the most telling first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.routing.difference import Change, Kind
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from pytest_falsify.routing.difference import LayerDifference, RoutingDifference

    Array = NDArray[Any]

BOUND: Mapping[str, Any] = {"type": "number", "minimum": 0}


def _sides(**sides: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": sides,
        "additionalProperties": False,
        "minProperties": 1,
    }


BOUNDS: Mapping[str, Any] = {
    **_sides(
        jaccard=_sides(min={**BOUND, "maximum": 1}),
        weight_error=_sides(max=BOUND),
        kl=_sides(mean=BOUND, max=BOUND),
        js=_sides(mean=BOUND, max=BOUND),
        load_drift=_sides(max=BOUND),
    ),
    "description": "bounds beside the judgement of each choice: of the share of experts in common, "
    "of weights, of divergences in nats over all experts, and of each layer's load",
}


def objections(found: RoutingDifference, bounds: Mapping[str, Any] | None = None) -> list[str]:
    """Return what speaks against the subject of a comparison; nothing where all is explained.

    Args:
        found: the comparison.
        bounds: what ``BOUNDS`` describes.
    """
    reasons = [*_own(found), *_flips(found), *_scores(found), *_narrowed(found)]
    return [*reasons, *_dropped(found), *_broken(found, bounds or {})]


def told(change: Change) -> str:
    """Return a change in words."""
    experts = f"{_ids(change.taken)} instead of {_ids(change.left_out)}"
    return (
        f"token {change.token}, layer {change.layer}: experts {experts}, which the oracle prefers "
        f"by {change.margin:.3g} (noise explains {change.allowance:.3g})"
    )


def measures(found: RoutingDifference) -> dict[str, dict[str, float]]:
    """Return the bounded measures of a comparison: mean, and the worst of all tokens and layers."""
    layers = list(found.layers.values())
    jaccard = np.concatenate([each.jaccard for each in layers])
    measured = {"jaccard": {"mean": float(jaccard.mean()), "min": float(jaccard.min())}}
    for name in ("weight_error", "kl", "js"):
        values = np.concatenate([getattr(each, name) for each in layers])
        measured[name] = {"mean": float(values.mean()), "max": float(values.max())}
    drifts = [each.load_drift for each in layers]
    return {**measured, "load_drift": {"mean": float(np.mean(drifts)), "max": max(drifts)}}


def _own(found: RoutingDifference) -> Iterator[str]:
    """Yield where the dispatch is not what the gate makes of the subject's own logits."""
    for what, name in (
        ("experts are not those that the gate chooses from", "misdirected"),
        ("weights are not those that the gate makes of", "misweighed"),
    ):
        layers: list[tuple[int, LayerDifference]] = [
            (index, each) for index, each in found.layers.items() if getattr(each, name)
        ]
        if layers:
            tokens = sum(len(getattr(each, name)) for _, each in layers)
            index, first = layers[0]
            place = f"token {getattr(first, name)[0]}, layer {index}"
            yield f"{place}: the {what} the router's own logits ({tokens} such in all)"


def _flips(found: RoutingDifference) -> Iterator[str]:
    flips = found.of(Kind.FLIP)
    if flips:
        count = number_of(len(flips), "choice flips", "choices flip")
        yield f"{count}; the first at {told(flips[0])}"


def _scores(found: RoutingDifference) -> Iterator[str]:
    noisy = [(index, each) for index, each in found.layers.items() if each.is_noisy]
    if noisy:
        index, first = noisy[0]
        yield (
            f"the scores of {number_of(len(noisy), 'router')} are beyond their floor; the first, "
            f"of layer {index}, {first.ratio:.3g} times (limit {first.limit:g})"
        )


def _narrowed(found: RoutingDifference) -> Iterator[str]:
    for index, each in found.layers.items():
        if each.narrowed:
            yield f"layer {index}: the router computes in {each.narrowed}, the control's does not"
            return


def _dropped(found: RoutingDifference) -> Iterator[str]:
    for index, each in found.layers.items():
        mine, theirs = each.dropped
        if mine > theirs:
            dropped = number_of(mine, "place")
            yield f"layer {index} dropped {dropped} for want of capacity, the oracle {theirs}"
            return


def _broken(found: RoutingDifference, bounds: Mapping[str, Any]) -> Iterator[str]:
    measured = measures(found)
    for name, sides in bounds.items():
        for side, bound in sides.items():
            value = measured[name][side]
            is_kept = value >= bound if side == "min" else value <= bound
            if not is_kept:
                where = "below" if side == "min" else "above"
                yield f"{name} {side} {value:.3g} is {where} {bound:g}"


def _ids(experts: tuple[int, ...]) -> str:
    return ", ".join(map(str, experts)) or "none"
