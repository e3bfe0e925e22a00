"""The profile ``routing/v1``: routing as tensors, beside one short line of JSON a token.

A run of all its tokens (``full_run``) or a piece of one (``contiguous_segment``). What was
dispatched is stored; what the gate makes of the logits is stored beside it where it differs, so
both can be read side by side and neither can be taken for the other.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.canonical import canonical_text, digest, parse_json
from pytest_falsify.captures.new_folder import new_folder, sync
from pytest_falsify.captures.tensor_file import read_tensors, write_tensors
from pytest_falsify.errors import CaptureError
from pytest_falsify.routing.arrays import smallest_unsigned
from pytest_falsify.routing.documents import AGAIN, LAYOUT, MANIFEST, RAW_TRACE
from pytest_falsify.routing.full_run import derived_texts, facts_of
from pytest_falsify.routing.gate import Gate
from pytest_falsify.routing.issue import raise_any
from pytest_falsify.routing.layout import grid_of
from pytest_falsify.routing.naming import run_folder
from pytest_falsify.routing.recompute import VERSION, disagreement
from pytest_falsify.routing.trace import LayerRouting, Routing, Tokens
from pytest_falsify.routing.values import TENSORS, value_issues

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]

PROFILE = "routing/v1"
SCHEMA = "urn:pytest-falsify:schema:routing-v1"
FULL_RUN, SEGMENT = "full_run", "contiguous_segment"
COLUMNS = {
    "ids": np.int32,
    "contexts": np.int32,
    "starts": np.float64,
    "ends": np.float64,
    "logits": np.float32,
    "logprobs": np.float32,
}
"""The columns of ``Tokens`` that are tensors, and the dtypes that they are stored in."""


def write_routing(
    routing: Routing,
    root: Path,
    *,
    kind: str | None = None,
    derived: Mapping[str, Any] | None = None,
    replaces: bool = False,
) -> Path:
    """Write a run below a root, whole or not at all, and return its folder.

    Args:
        routing: what was recorded.
        root: the folder of runs; the run's own is named after its id.
        kind: ``full_run`` or ``contiguous_segment``; the latter where it begins after token 0.
        derived: what was derived, by the names of ``Documents``.
        replaces: let the same run that is already there give way.

    Raises:
        InvalidRun: when it holds what no run may hold.
        CaptureError: when something is already there, or the kind does not fit.
    """
    kind = kind or (SEGMENT if routing.start else FULL_RUN)
    if kind == FULL_RUN and routing.start:
        msg = f"a full run begins at token 0, and this one at {routing.start}"
        raise CaptureError(msg, expected=f"kind {SEGMENT}")
    folder = run_folder(root, routing.facts.run_id)
    raise_any(tuple(value_issues(routing)), folder, {})
    with new_folder(folder, replaces=is_routing if replaces else None) as temporary:
        _write_files(routing, temporary, kind, derived or {})
    return folder


def _write_files(routing: Routing, folder: Path, kind: str, derived: Mapping[str, Any]) -> None:
    """Write the files of a run into an empty folder, the manifest with their digests last."""
    write_tensors(folder / TENSORS, tensors_of(routing))
    texts = {RAW_TRACE: "".join(_lines(routing)), LAYOUT: canonical_text(grid_of(routing))}
    texts |= derived_texts(derived)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    files = {each.name: bytes_digest(each) for each in sorted(folder.iterdir())}
    body = manifest_of(routing, kind, files)
    (folder / MANIFEST).write_text(canonical_text(body), encoding="utf-8")
    for each in folder.iterdir():
        sync(each)


def bytes_digest(path: Path) -> str:
    """Return ``sha256:...`` of a file as it is now."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def is_routing(path: Path) -> bool:
    """Tell whether a folder holds a run of this profile."""
    try:
        body = parse_json((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(body, dict) and body.get("profile") == PROFILE


def manifest_of(routing: Routing, kind: str, files: Mapping[str, str]) -> dict[str, Any]:
    """Return the manifest of a run with the digests of its files, and its own."""
    body = {
        "schema": SCHEMA,
        "profile": PROFILE,
        "bundle_kind": kind,
        "token_span": {
            "start_index": routing.start,
            "end_index_exclusive": routing.start + len(routing.tokens),
        },
        **routing.facts.to_json(),
        "recompute_version": VERSION,
        "layers": [
            {
                "layer_index": index,
                "num_total_experts": each.experts,
                "num_active_experts": each.active,
                "gate": each.gate.to_json(),
            }
            for index, each in sorted(routing.layers.items())
        ],
        "files": dict(files),
    }
    return {**body, "digest": digest(body)}


def tensors_of(routing: Routing) -> dict[str, Array]:
    """Return what is stored as tensors, by name."""
    found = {
        f"tokens/{name}": getattr(routing.tokens, name).astype(dtype)
        for name, dtype in COLUMNS.items()
    }
    for index, layer in sorted(routing.layers.items()):
        ids = smallest_unsigned(layer.experts)
        other = disagreement(layer)
        parts = {
            "logits": layer.logits,
            "indices": layer.indices.astype(ids),
            "weights": layer.weights,
            "recomputed_rows": other.rows.astype(np.int32),
            "recomputed_indices": other.indices.astype(ids),
            "recomputed_weights": other.weights.astype(np.float32),
        }
        parts |= {} if layer.bias is None else {"bias": layer.bias}
        found |= {f"layers/{index}/{name}": each for name, each in parts.items()}
    return found


def routing_from(
    body: Mapping[str, Any], tensors: Mapping[str, Array], texts: tuple[str, ...]
) -> Routing:
    """Return a run from its manifest, its tensors and the texts of its tokens."""
    columns = {name: tensors[f"tokens/{name}"] for name in COLUMNS}
    return Routing(
        facts=facts_of(body),
        start=body["token_span"]["start_index"],
        tokens=Tokens(texts=texts, **columns),
        layers={
            each["layer_index"]: LayerRouting(
                logits=tensors[f"layers/{each['layer_index']}/logits"],
                indices=tensors[f"layers/{each['layer_index']}/indices"],
                weights=tensors[f"layers/{each['layer_index']}/weights"],
                bias=tensors.get(f"layers/{each['layer_index']}/bias"),
                gate=Gate.from_json(each["gate"]),
            )
            for each in body["layers"]
        },
    )


def read_stored(path: Path) -> dict[str, Array]:
    """Map the tensors of a run.

    Raises:
        CaptureError: when the file is not whole.
    """
    try:
        return read_tensors(path)
    except CaptureError as error:
        raise CaptureError(error.what, path=path, expected=error.expected, remedy=AGAIN) from error


def _lines(routing: Routing) -> list[str]:
    ids, texts = routing.tokens.ids.tolist(), routing.tokens.texts
    return [
        f'{{"token_id": {id_}, "token_index": {index}, "token_text": {json.dumps(text)}}}\n'
        for index, (id_, text) in enumerate(zip(ids, texts, strict=True), start=routing.start)
    ]
