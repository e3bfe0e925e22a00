"""What a run of the profile ``routing/v1`` must say, beyond its schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.canonical import digest
from pytest_falsify.routing.documents import LAYOUT, MANIFEST, read_object
from pytest_falsify.routing.issue import Issue
from pytest_falsify.routing.layout import grid_of
from pytest_falsify.routing.recompute import VERSION, disagreement
from pytest_falsify.routing.routing_v1 import COLUMNS, FULL_RUN, bytes_digest
from pytest_falsify.routing.values import TENSORS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_falsify.routing.trace import Routing

    Array = NDArray[Any]
    Json = dict[str, Any]

PARTS = ("logits", "indices", "weights", "recomputed_rows")
AGAIN = ("recomputed_indices", "recomputed_weights")


def manifest_issues(body: Json, folder: Path) -> Iterator[Issue]:
    """Yield what the manifest and the files' digests get wrong."""
    content = {key: value for key, value in body.items() if key != "digest"}
    if digest(content) != body["digest"]:
        yield _manifest("manifest_digest_mismatch", "the manifest is not as it was written")
    span = body["token_span"]
    if span["end_index_exclusive"] <= span["start_index"]:
        yield _manifest("token_span_empty", "it has no token", "token_span")
    if body["bundle_kind"] == FULL_RUN and span["start_index"]:
        what = f"a full run begins at token {span['start_index']}"
        yield _manifest("token_span_invalid", what, "token_span")
    indices = [each["layer_index"] for each in body["layers"]]
    if len(set(indices)) != len(indices):
        yield _manifest("duplicate_layer_index", "a layer is there twice", "layers")
    for name, wanted in body["files"].items():
        path = folder / name
        if not path.is_file():
            yield _manifest("file_missing", f"there is no {name}", "files", name)
        elif bytes_digest(path) != wanted:
            what = "its bytes are not those that were written"
            yield Issue(code="file_digest_mismatch", what=what, document=name)


def trace_issues(body: Json, events: Sequence[Json]) -> Iterator[Issue]:
    """Yield where the lines of the trace are not the tokens of the span, in order."""
    span = body["token_span"]
    wanted = range(span["start_index"], span["end_index_exclusive"])
    for place, event in enumerate(events):
        if set(event) != {"token_id", "token_index", "token_text"}:
            what = f"it has the keys {', '.join(sorted(event))}"
            yield _raw("schema", what, place)
        elif not (isinstance(event["token_text"], str) and type(event["token_id"]) is int):
            yield _raw("schema", "its id is no whole number, or its text no text", place)
        elif place >= len(wanted) or event["token_index"] != wanted[place]:
            what = f"token {event['token_index']} stands in place {place} of {wanted}"
            yield _raw("raw_token_index_sequence_invalid", what, place)
    if len(events) != len(wanted):
        what = f"{len(events)} events for {len(wanted)} tokens"
        code = "raw_trace_empty" if not events else "raw_trace_length_mismatch"
        yield Issue(code=code, what=what, document="raw_events")


def tensor_issues(body: Json, tensors: Mapping[str, Array]) -> Iterator[Issue]:
    """Yield where names and shapes of tensors are not those that the manifest describes."""
    count = body["token_span"]["end_index_exclusive"] - body["token_span"]["start_index"]
    wanted: dict[str, tuple[int, ...]] = {f"tokens/{name}": (count,) for name in COLUMNS}
    for layer in body["layers"]:
        at, total = f"layers/{layer['layer_index']}", layer["num_total_experts"]
        active = layer["num_active_experts"]
        rows = len(tensors.get(f"{at}/recomputed_rows", ()))
        shapes = ((count, total), (count, active), (count, active), (rows,))
        wanted |= {f"{at}/{name}": shape for name, shape in zip(PARTS, shapes, strict=True)}
        wanted |= {f"{at}/{name}": (rows, active) for name in AGAIN}
        if layer["gate"]["is_biased"]:
            wanted[f"{at}/bias"] = (total,)
    for name in sorted(wanted.keys() ^ tensors.keys()):
        what = f"`{name}` is {'missing' if name in wanted else 'not in the manifest'}"
        yield _tensor("tensor_set_mismatch", what)
    for name in wanted.keys() & tensors.keys():
        if tensors[name].shape != wanted[name]:
            what = f"`{name}` has the shape {tensors[name].shape}, not {wanted[name]}"
            yield _tensor("tensor_shape_mismatch", what)


def id_issues(routing: Routing, events: Sequence[Json]) -> Iterator[Issue]:
    """Yield where the ids of the lines are not those of the tensor."""
    differs = np.flatnonzero(routing.tokens.ids != [each["token_id"] for each in events])
    if len(differs):
        yield _raw("token_id_mismatch", "its id is not that of the tensor", int(differs[0]))


def recomputed_issues(
    body: Json, routing: Routing, tensors: Mapping[str, Array]
) -> Iterator[Issue]:
    """Yield where what is stored as recomputed is not what the gate gives now."""
    if body["recompute_version"] != VERSION:
        what = f"it was recomputed by {body['recompute_version']}, which is not known here"
        yield _manifest("recompute_version_unknown", what, "recompute_version")
        return
    for index, layer in routing.layers.items():
        found = disagreement(layer)
        rows = tensors[f"layers/{index}/recomputed_rows"]
        ids = tensors[f"layers/{index}/recomputed_indices"]
        if not np.array_equal(rows, found.rows) or not np.array_equal(ids, found.indices):
            what = f"layer {index}: {len(rows)} tokens are stored that {len(found.rows)} should be"
            yield _tensor("recomputed_mismatch", what)


def layout_issues(routing: Routing, folder: Path) -> Iterator[Issue]:
    """Yield whether the layout is not the grid of the trace's own layers and experts."""
    layout = read_object(folder / LAYOUT)
    wanted = grid_of(routing)
    for key in sorted(wanted.keys() | layout.keys()):
        if layout.get(key) != wanted.get(key):
            what = f"`{key}` is not that of the trace"
            yield Issue(code="layout_mismatch", what=what, document="layout", at=(key,))


def _manifest(code: str, what: str, *at: str | int) -> Issue:
    return Issue(code=code, what=what, document=MANIFEST, at=at)


def _raw(code: str, what: str, place: int) -> Issue:
    return Issue(code=code, what=what, document="raw_events", at=(place,))


def _tensor(code: str, what: str) -> Issue:
    return Issue(code=code, what=what, document=TENSORS)
