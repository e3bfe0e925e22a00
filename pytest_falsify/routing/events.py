"""Raw events of the profile ``full_run`` v0.1.0 made of arrays, and arrays made of them.

An event of 48 layers of 128 experts is 100 kB of numbers. Their digits are looked up, three at a
time and all experts at once: twelve decimals, so that probabilities add up to 1 within 1e-10.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.routing.event_rules import entropy_of
from pytest_falsify.routing.gate import softmax
from pytest_falsify.routing.trace import LayerRouting, Tokens, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pytest_falsify.routing.trace import Routing

    Array = NDArray[Any]

BLOCK = 64
"""So many tokens are turned into text at once."""
DECIMALS, DIGITS_AT_ONCE = 12, 3
_NUMBER, _WHOLE = "%.12g", "%d"
_DIGITS = np.array([list(f"{each:03d}".encode()) for each in range(10**DIGITS_AT_ONCE)], np.uint8)


def event_lines(routing: Routing) -> Iterator[str]:
    """Yield one line of JSON a token, its keys sorted, without the end of the line."""
    template = _template(routing)
    run_id = _literal(routing.facts.run_id)
    tokens = routing.tokens
    layers = [each for _, each in sorted(routing.layers.items())]
    for start in range(0, len(tokens), BLOCK):
        end = min(start + BLOCK, len(tokens))
        parts = [_parts(each.rows(start, end)) for each in layers]
        for place in range(start, end):
            before, after = float(tokens.starts[place]), float(tokens.ends[place])
            values = [value for each in parts for value in each[place - start]]
            yield template % (
                int(tokens.contexts[place]),
                *values,
                run_id,
                *(repr(after - before), repr(after), repr(before)),
                int(tokens.ids[place]),
                place,
                json.dumps(tokens.texts[place]),
            )


def decimals(shares: Array) -> list[str]:
    """Return each row of numbers from 0 to 1 as text, with commas between.

    Args:
        shares: (rows, columns) float64.
    """
    scaled = np.rint(shares * 10.0**DECIMALS).astype(np.int64)
    text = np.empty((*shares.shape, DECIMALS + 4), np.uint8)
    text[..., 0] = scaled // 10**DECIMALS + ord("0")
    text[..., 1] = ord(".")
    for first in range(0, DECIMALS, DIGITS_AT_ONCE):
        group = scaled // 10 ** (DECIMALS - DIGITS_AT_ONCE - first) % 10**DIGITS_AT_ONCE
        text[..., 2 + first : 2 + first + DIGITS_AT_ONCE] = _DIGITS[group]
    text[..., -2:] = (ord(","), ord(" "))
    return [row.tobytes()[:-2].decode("ascii") for row in text]


def _literal(text: str) -> str:
    return json.dumps(text)


def _template(routing: Routing) -> str:
    layers = ", ".join(_layer_template(i, each) for i, each in sorted(routing.layers.items()))
    return (
        f'{{"context_length": {_WHOLE}, "event_type": "token_complete", "layers": [{layers}], '
        '"run_id": %s, "schema_version": "raw/v0.1.0", "timing_ms": {"decode_duration": %s, '
        f'"decode_end": %s, "decode_start": %s}}, "token_id": {_WHOLE}, "token_index": {_WHOLE}, '
        '"token_text": %s}'
    )


def _layer_template(index: int, layer: LayerRouting) -> str:
    ids, chosen = ", ".join([_WHOLE] * layer.active), ", ".join([_NUMBER] * layer.active)
    return (
        f'{{"entropy": {_NUMBER}, "layer_index": {index}, "layer_kind": "moe", '
        f'"normalized_entropy": {_NUMBER}, "num_active_experts": {layer.active}, '
        f'"num_total_experts": {layer.experts}, "router_probs": [%s], '
        f'"top1_prob": {_NUMBER}, "top1_top2_margin": {_NUMBER}, "topk_indices": [{ids}], '
        f'"topk_probs": [{chosen}]}}'
    )


def _parts(layer: LayerRouting) -> list[list[Any]]:
    """Return what a layer puts into the template, in its order, one list a token."""
    probs = softmax(layer.logits)
    entropy, normalised = entropy_of(probs)
    chosen = np.take_along_axis(probs, layer.indices.astype(np.intp), axis=1)
    order = np.argsort(-chosen, axis=1, kind="stable")
    chosen = np.take_along_axis(chosen, order, axis=1)
    ids = np.take_along_axis(layer.indices, order, axis=1)
    margin = chosen[:, 0] - chosen[:, 1] if layer.active > 1 else chosen[:, 0]
    before = np.column_stack([entropy, np.minimum(normalised, 1.0)]).tolist()
    after = np.column_stack([probs.max(axis=1), margin, ids, chosen]).tolist()
    texts = decimals(probs)
    return [[*a, text, *b] for a, text, b in zip(before, texts, after, strict=True)]


def tokens_of(events: Sequence[dict[str, Any]]) -> Tokens:
    """Return the tokens of raw events; their logits are unknown."""
    return Tokens(
        ids=np.array([each["token_id"] for each in events], dtype=np.int64),
        texts=tuple(each["token_text"] for each in events),
        contexts=np.array([each["context_length"] for each in events], dtype=np.int64),
        starts=np.array([each["timing_ms"]["decode_start"] for each in events], dtype=float),
        ends=np.array([each["timing_ms"]["decode_end"] for each in events], dtype=float),
        logits=unknown(len(events)),
        logprobs=unknown(len(events)),
    )


def layers_of(events: Sequence[dict[str, Any]]) -> dict[int, LayerRouting]:
    """Return the layers of raw events, in order: probabilities as the logits that give them."""
    by_layer: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        for layer in event["layers"]:
            by_layer.setdefault(layer["layer_index"], []).append(layer)
    return {index: _layer(found) for index, found in sorted(by_layer.items())}


def _layer(found: list[dict[str, Any]]) -> LayerRouting:
    with np.errstate(divide="ignore"):
        logits = np.log(np.array([each["router_probs"] for each in found], dtype=float))
    return LayerRouting(
        logits=logits,
        indices=np.array([each["topk_indices"] for each in found], dtype=np.int64),
        weights=np.array([each["topk_probs"] for each in found], dtype=float),
    )
