"""What no run may hold, whatever it is written as: asked before writing and after reading."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_falsify.routing.documents import MANIFEST
from pytest_falsify.routing.issue import SCHEMA, Issue
from pytest_falsify.routing.naming import is_date_time
from pytest_falsify.routing.recompute import has_repeats
from pytest_falsify.routing.schemas import EXPECTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_falsify.routing.trace import LayerRouting, Routing, RunFacts, Tokens

TENSORS = "routing.safetensors"


def value_issues(routing: Routing) -> Iterator[Issue]:
    """Yield what cannot be: ids out of range, numbers that are none, time that runs back."""
    yield from _facts(routing.facts)
    yield from _tokens(routing.tokens)
    for index, layer in routing.layers.items():
        yield from _layer(index, layer)


def _facts(facts: RunFacts) -> Iterator[Issue]:
    if not is_date_time(facts.created_at):
        what = f"`{facts.created_at}` is no date; expected {EXPECTED['date-time']}"
        yield Issue(code=SCHEMA, what=what, document=MANIFEST, at=("created_at",))
    for name in ("model_id", "tokenizer_id"):
        if not getattr(facts, name):
            what = f"the run has no {name}"
            yield Issue(code=SCHEMA, what=what, document=MANIFEST, at=(name,))


def _tokens(tokens: Tokens) -> Iterator[Issue]:
    for name in ("starts", "ends"):
        column = getattr(tokens, name)
        if not np.isfinite(column).all() or (np.diff(column) < 0).any():
            yield _tensor("decode_time_not_monotone", f"`tokens/{name}` runs backwards")
    if (tokens.ends < tokens.starts).any():
        yield _tensor("decode_duration_mismatch", "a token ended before it began")
    if (np.diff(tokens.contexts) <= 0).any():
        yield _tensor("context_length_not_monotone", "`tokens/contexts` does not grow")


def _layer(index: int, layer: LayerRouting) -> Iterator[Issue]:
    if not (np.isfinite(layer.logits).all() and np.isfinite(layer.weights).all()):
        yield _tensor("not_finite", f"layer {index} has a logit or a weight that is not finite")
    outside = (layer.indices > layer.experts) | (layer.indices < 0)
    if outside.any():
        what = f"layer {index} names an expert that there is not"
        yield _tensor("topk_index_out_of_bounds", what)
    if has_repeats(layer).any():
        row = int(np.flatnonzero(has_repeats(layer))[0])
        what = f"layer {index} sends token {row} to one expert twice"
        yield _tensor("duplicate_topk_index", what)


def _tensor(code: str, what: str) -> Issue:
    return Issue(code=code, what=what, document=TENSORS)
