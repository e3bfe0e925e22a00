"""Whether a run is one: its schema, what its numbers say together, and where it lies."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from pytest_falsify.routing.documents import FILES
from pytest_falsify.routing.event_rules import event_issues
from pytest_falsify.routing.issue import SCHEMA, Issue
from pytest_falsify.routing.naming import is_date_time, is_run_id
from pytest_falsify.routing.run_rules import RUN_RULES
from pytest_falsify.routing.schemas import Schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_falsify.routing.documents import Documents

DEFINITIONS = {
    "manifest": "manifest",
    "raw_events": "raw_event",
    "layout": "layout",
    "derived_events": "derived_event",
    "motif_ledger": "motif_ledger",
    "contingency": "contingency",
}
FULL_RUN_FILES = frozenset(FILES.values())


def issues_of(documents: Documents) -> tuple[Issue, ...]:
    """Return all that is wrong with the documents of a run, the schema's part first.

    Rules about what documents say together are left out only where something cannot be read.
    """
    found = list(_schema_issues(documents))
    if any(each.is_structural for each in found):
        return tuple(found)
    found += _run_id(documents)
    for index, event in enumerate(documents.raw_events):
        found += event_issues(index, event)
    for rule in RUN_RULES:
        found += rule(documents)
    return tuple(found)


def place_issues(documents: Documents, folder: Path, known: frozenset[str]) -> Iterator[Issue]:
    """Yield what is wrong with where a run lies: its folder's name, and files beside its own.

    Args:
        documents: of the run.
        folder: where they lie.
        known: the names of files that belong there.
    """
    run_id = documents.manifest.get("run_id")
    parts = str(run_id).split("/")
    if list(folder.resolve().parts[-len(parts) :]) != parts:
        what = f"run {run_id} lies in a folder named {folder.resolve().name}"
        yield Issue(code="folder_name_mismatch", what=what, document="manifest", at=("run_id",))
    for each in sorted(folder.iterdir()):
        if each.name not in known:
            what = f"{each.name} is no file of a run"
            yield Issue(code="stray_file", what=what, document="manifest")


def _run_id(documents: Documents) -> Iterator[Issue]:
    run_id = documents.manifest["run_id"]
    if not is_run_id(run_id):
        what = f"`{run_id}` cannot name a folder"
        yield Issue(code="run_id_invalid", what=what, document="manifest", at=("run_id",))


def _schema_issues(documents: Documents) -> Iterator[Issue]:
    for name, value in documents.present():
        schema = _schema(DEFINITIONS[name])
        for index, each in enumerate([value] if isinstance(value, dict) else value):
            at = () if isinstance(value, dict) else (index,)
            for found in schema.violations(each, at):
                yield Issue(
                    code=SCHEMA,
                    what=found.what,
                    document=name,
                    at=found.at,
                    is_structural=found.is_structural,
                )


@cache
def _schema(definition: str) -> Schema:
    schema = {"$defs": _definitions(), "$ref": f"#/$defs/{definition}"}
    return Schema(schema, {"date-time": is_date_time})


@cache
def _definitions() -> dict[str, Any]:
    file = resources.files("pytest_falsify.routing") / "schema" / "full-run-v0.1.0.schema.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["$defs"]
    return found
