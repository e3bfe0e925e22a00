"""What one raw event must say, beyond its schema: counts, sums, and what follows from them.

The codes are those of the profile ``full_run`` v0.1.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.routing.issue import Issue
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Json = dict[str, Any]
Broken = Iterator[tuple[str, str]]

TOLERANCE = 1e-6


def event_issues(index: int, event: Json) -> Iterator[Issue]:
    """Yield what is wrong with one raw event that fits its schema."""
    timing = event["timing_ms"]
    lasted = timing["decode_end"] - timing["decode_start"]
    if not _is_near(lasted, timing["decode_duration"]):
        what = f"decode_duration is {timing['decode_duration']:g}, and end - start is {lasted:g}"
        yield _issue(index, "decode_duration_mismatch", what, "timing_ms", "decode_duration")
    seen: set[int] = set()
    for place, layer in enumerate(event["layers"]):
        if layer["layer_index"] in seen:
            what = f"layer {layer['layer_index']} is there twice"
            yield _issue(index, "duplicate_layer_index", what, "layers", place)
        seen.add(layer["layer_index"])
        for rule in LAYER_RULES:
            for code, what in rule(layer):
                yield _issue(index, code, what, "layers", place)


def _issue(index: int, code: str, what: str, *at: str | int) -> Issue:
    return Issue(code=code, what=what, document="raw_events", at=(index, *at))


def _counts(layer: Json) -> Broken:
    total, active = layer["num_total_experts"], layer["num_active_experts"]
    if active < 1:
        yield "num_active_experts_must_be_positive", "no expert is active"
    if active > total:
        yield "num_active_experts_exceeds_num_total_experts", f"{active} of {total} are active"
    if len(layer["router_probs"]) != total:
        found = len(layer["router_probs"])
        what = (
            f"{number_of(found, 'probability', 'probabilities')} for {number_of(total, 'expert')}"
        )
        yield "router_probs_length_mismatch", what
    lengths = {len(layer["topk_indices"]), len(layer["topk_probs"])}
    if lengths != {active}:
        yield "topk_length_mismatch", f"{sorted(lengths)} are listed of {active} active experts"


def _ids(layer: Json) -> Broken:
    ids = layer["topk_indices"]
    if len(set(ids)) != len(ids):
        yield "duplicate_topk_index", f"an expert is listed twice in {ids}"
    outside = [each for each in ids if each >= layer["num_total_experts"]]
    if outside:
        yield "topk_index_out_of_bounds", f"there is no expert {outside[0]}"


def _sum(layer: Json) -> Broken:
    total = float(np.sum(layer["router_probs"]))
    if len(layer["router_probs"]) == layer["num_total_experts"] and not _is_near(total, 1.0):
        yield "router_probs_sum_mismatch", f"the probabilities add up to {total:.9g}"


def _chosen(layer: Json) -> Broken:
    probs, ids = layer["router_probs"], layer["topk_indices"]
    if any(each >= len(probs) for each in ids) or len(ids) != len(layer["topk_probs"]):
        return
    for place, (expert, prob) in enumerate(zip(ids, layer["topk_probs"], strict=True)):
        if not _is_near(probs[expert], prob):
            what = f"topk_probs[{place}] is {prob:.9g}, expert {expert} has {probs[expert]:.9g}"
            yield "topk_prob_mismatch", what
            break
    others = np.delete(np.asarray(probs, dtype=float), sorted(set(ids)))
    weakest = min((probs[each] for each in ids), default=0.0)
    if len(others) and ids and others.max() > weakest + TOLERANCE:
        what = f"an expert of {others.max():.9g} was left out, one of {weakest:.9g} chosen"
        yield "topk_selection_mismatch", what


def _best(layer: Json) -> Broken:
    largest = max(layer["router_probs"])
    if not _is_near(layer["top1_prob"], largest):
        what = f"top1_prob is {layer['top1_prob']:.9g}, the largest is {largest:.9g}"
        yield "top1_prob_mismatch", what
    chosen = layer["topk_probs"]
    if not chosen:
        return
    margin = chosen[0] - chosen[1] if len(chosen) > 1 else chosen[0]
    if not _is_near(layer["top1_top2_margin"], margin):
        what = f"top1_top2_margin is {layer['top1_top2_margin']:.9g}, not {margin:.9g}"
        yield "top1_top2_margin_mismatch", what


def _entropy(layer: Json) -> Broken:
    entropy, normalised = entropy_of(np.asarray(layer["router_probs"], dtype=float))
    if not _is_near(layer["entropy"], float(entropy)):
        yield "entropy_mismatch", f"entropy is {layer['entropy']:.9g}, not {float(entropy):.9g}"
    if not _is_near(layer["normalized_entropy"], float(normalised)):
        what = f"normalized_entropy is {layer['normalized_entropy']:.9g}, not {normalised:.9g}"
        yield "normalized_entropy_mismatch", what


LAYER_RULES: tuple[Callable[[Json], Broken], ...] = (
    _counts,
    _ids,
    _sum,
    _chosen,
    _best,
    _entropy,
)


def entropy_of(probs: Array) -> tuple[Array, Array]:
    """Return the entropy over the last axis in nats, and its share of the largest possible."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(probs > 0, probs * np.log(probs), 0.0)
    entropy = np.maximum(-terms.sum(axis=-1), 0.0)
    experts = probs.shape[-1]
    return entropy, entropy / np.log(experts) if experts > 1 else np.zeros_like(entropy)


def _is_near(a: float, b: float) -> bool:
    return abs(a - b) <= TOLERANCE
