"""The profile ``full_run`` v0.1.0: every token of a run from the first, as JSON.

It can say of a router only what the softmax of its logits says; what a sigmoid, a bias, groups or
a lack of capacity dispatched has no place in it, and belongs into ``routing/v1``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.captures.new_folder import new_folder, sync
from pytest_falsify.errors import CaptureError
from pytest_falsify.routing.documents import (
    FILES,
    LAYOUT,
    MANIFEST,
    RAW_TRACE,
    Documents,
    document_text,
    lines_text,
    read_documents,
)
from pytest_falsify.routing.event_rules import TOLERANCE
from pytest_falsify.routing.events import event_lines, layers_of, tokens_of
from pytest_falsify.routing.gate import softmax
from pytest_falsify.routing.issue import raise_any
from pytest_falsify.routing.layout import grid_layout, layout_text
from pytest_falsify.routing.naming import is_date_time, run_folder
from pytest_falsify.routing.schemas import EXPECTED
from pytest_falsify.routing.trace import LayerRouting, Routing, RunFacts
from pytest_falsify.routing.validate import FULL_RUN_FILES, issues_of, place_issues
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_falsify.routing.trace import Tokens

PROFILE = "full_run/v0.1.0"
OTHER = "write it as routing/v1"
ARTIFACT_VERSIONS = {
    "raw_event_schema_version": "raw/v0.1.0",
    "derived_event_schema_version": "derived/v0.1.0-provisional",
    "layout_schema_version": "layout/v0.1.0",
    "motif_ledger_schema_version": "motif_ledger/v0.1.0-provisional",
    "contingency_schema_version": "contingency/v0.1.0-provisional",
}


def write_full_run(
    routing: Routing, root: Path, *, derived: Mapping[str, Any] | None = None
) -> Path:
    """Write a run below a root, whole or not at all, and return its folder.

    Args:
        routing: from its first token.
        root: the folder of runs; the run's own is named after its id.
        derived: what was derived, by the names of ``Documents``.

    Raises:
        CaptureError: when something is already there, or the profile has no place for the run.
    """
    folder = run_folder(root, routing.facts.run_id)
    _must_fit(routing)
    with new_folder(folder) as temporary:
        texts = {MANIFEST: document_text(manifest_of(routing.facts))}
        texts[LAYOUT] = layout_text(grid_layout(routing))
        texts |= derived_texts(derived or {})
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        with (temporary / RAW_TRACE).open("x", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in event_lines(routing))
        for each in temporary.iterdir():
            sync(each)
    return folder


def read_full_run(folder: Path, *, in_place: bool = True) -> tuple[Documents, Routing]:
    """Read a run and hold it against every rule.

    Args:
        folder: of the run.
        in_place: ask that the folder is named after the run and holds nothing else.

    Raises:
        InvalidRun: when it breaks a rule, with all codes, the first with its file and line.
        CaptureError: when a file is missing or no JSON.
    """
    documents = read_documents(folder)
    issues = list(issues_of(documents))
    if in_place:
        issues += place_issues(documents, folder, FULL_RUN_FILES)
    raise_any(issues, folder, documents.lines)
    return documents, Routing(
        facts=facts_of(documents.manifest),
        tokens=tokens_of(documents.raw_events),
        layers=layers_of(documents.raw_events),
    )


def manifest_of(facts: RunFacts) -> dict[str, Any]:
    """Return the manifest of a run."""
    return {
        "schema_version": "manifest/v0.1.0",
        **facts.to_json(),
        "artifact_versions": ARTIFACT_VERSIONS,
    }


def facts_of(manifest: Mapping[str, Any]) -> RunFacts:
    """Return how a run came to be, from a manifest of either profile."""
    return RunFacts(
        run_id=manifest["run_id"],
        created_at=manifest["created_at"],
        model_id=manifest["model_id"],
        tokenizer_id=manifest["tokenizer_id"],
        prompt=manifest["prompt"]["text"],
        seed=manifest.get("seed"),
        generation=manifest.get("generation_config", {}),
        capture=manifest.get("capture_config", {}),
        derivation_version=manifest["derivation_version"],
        derivation_config=manifest["derivation_config_id"],
    )


def derived_texts(derived: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of what was derived, by the names of their files."""
    return {
        FILES[name]: lines_text(value) if isinstance(value, list) else document_text(value)
        for name, value in derived.items()
    }


def _must_fit(routing: Routing) -> None:
    facts = routing.facts
    if not is_date_time(facts.created_at):
        _refuse(f"the run was created at `{facts.created_at}`", expected=EXPECTED["date-time"])
    for name in ("model_id", "tokenizer_id"):
        if not getattr(facts, name):
            _refuse(f"the run has no {name}", expected="a name")
    if routing.start:
        _refuse(f"the run begins at token {routing.start}", expected="token 0")
    _must_be_in_order(routing.tokens)
    for index, layer in routing.layers.items():
        if reason := _unfit(layer):
            _refuse(f"layer {index}: {reason}", expected="the most probable of a softmax")


def _must_be_in_order(tokens: Tokens) -> None:
    if (np.diff(tokens.contexts) <= 0).any():
        _refuse("the context does not grow from token to token")
    lasts = tokens.ends - tokens.starts
    if (lasts < 0).any() or (np.diff(tokens.starts) < 0).any() or (np.diff(tokens.ends) < 0).any():
        _refuse("the clock runs backwards")
    if not (np.isfinite(tokens.starts).all() and np.isfinite(tokens.ends).all()):
        _refuse("a time is not finite")


def _unfit(layer: LayerRouting) -> str:
    """Return why a layer cannot be said in this profile, or nothing."""
    if not layer.gate.is_plain:
        return f"its gate is {layer.gate}"
    if layer.dropped():
        return f"{number_of(layer.dropped(), 'place was', 'places were')} dropped"
    if np.isnan(layer.logits).any() or (layer.logits == np.inf).any():
        return "a router logit is NaN or +inf"
    ordered = np.sort(layer.indices, axis=1)
    if (ordered[:, 0] < 0).any() or (np.diff(ordered.astype(np.int64), axis=1) == 0).any():
        return "an id is negative or there twice"
    probs = softmax(layer.logits)
    chosen = np.take_along_axis(probs, layer.indices.astype(np.intp), axis=1).min(axis=1)
    np.put_along_axis(probs, layer.indices.astype(np.intp), -1.0, axis=1)
    rows = np.flatnonzero(probs.max(axis=1) > chosen + TOLERANCE)
    return f"token {rows[0]} was not sent to the most probable experts" if len(rows) else ""


def _refuse(what: str, *, expected: str | None = None) -> None:
    msg = f"{what}, which {PROFILE} cannot say"
    raise CaptureError(msg, expected=expected, remedy=OTHER)
