"""One door to the runs on disk, of either profile: read whole and held against every rule."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from pytest_falsify.routing.check_v1 import (
    id_issues,
    layout_issues,
    manifest_issues,
    recomputed_issues,
    tensor_issues,
    trace_issues,
)
from pytest_falsify.routing.documents import (
    CONTINGENCY,
    DERIVED,
    MANIFEST,
    MOTIF_LEDGER,
    RAW_TRACE,
    Documents,
    read_lines,
    read_object,
)
from pytest_falsify.routing.full_run import PROFILE as FULL_RUN
from pytest_falsify.routing.full_run import read_full_run
from pytest_falsify.routing.issue import SCHEMA, Issue, raise_any
from pytest_falsify.routing.naming import is_date_time
from pytest_falsify.routing.routing_v1 import (
    PROFILE,
    is_routing,
    read_stored,
    routing_from,
)
from pytest_falsify.routing.run_rules import derivations
from pytest_falsify.routing.schemas import Schema
from pytest_falsify.routing.validate import place_issues
from pytest_falsify.routing.values import TENSORS, value_issues

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_falsify.routing.trace import Routing

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that was found right.

    Attributes:
        folder: where it lies.
        profile: ``full_run/v0.1.0`` or ``routing/v1``.
        manifest: as it is written.
        derived: what was derived, by the names of ``Documents``; empty where nothing was.
    """

    folder: Path
    profile: str
    manifest: Mapping[str, Any]
    routing: Routing
    derived: Mapping[str, Any]


def is_run(path: Path) -> bool:
    """Tell whether a folder is a routing run of either profile, be it a broken one."""
    return (path / RAW_TRACE).is_file() and (path / MANIFEST).is_file()


def read_run(folder: Path, *, in_place: bool = True) -> Run:
    """Read a run and hold it against every rule of its profile.

    Args:
        folder: of the run.
        in_place: ask that the folder is named after the run and holds nothing else.

    Raises:
        InvalidRun: when it breaks a rule, with all codes, the first with its file and line.
        CaptureError: when a file is missing or not whole.
    """
    if is_routing(folder):
        return _read_v1(folder, in_place=in_place)
    documents, routing = read_full_run(folder, in_place=in_place)
    return Run(
        folder=folder,
        profile=FULL_RUN,
        manifest=documents.manifest,
        routing=routing,
        derived=_derived_of(documents),
    )


def _read_v1(folder: Path, *, in_place: bool) -> Run:
    body = read_object(folder / MANIFEST)
    issues = list(_schema_issues(body))
    raise_any(issues, folder, {})
    issues += manifest_issues(body, folder)
    raise_any(issues, folder, {})
    events, lines = read_lines(folder / RAW_TRACE)
    tensors = read_stored(folder / TENSORS)
    issues += [*trace_issues(body, events), *tensor_issues(body, tensors)]
    documents = _documents(body, folder, events, lines)
    known = frozenset({MANIFEST, *body["files"]})
    issues += place_issues(documents, folder, known) if in_place else ()
    raise_any(issues, folder, documents.lines)
    routing = routing_from(body, tensors, tuple(each["token_text"] for each in events))
    issues += [*id_issues(routing, events), *value_issues(routing)]
    raise_any(issues, folder, documents.lines)
    issues += recomputed_issues(body, routing, tensors)
    issues += layout_issues(routing, folder)
    issues += derivations(documents)
    raise_any(issues, folder, documents.lines)
    return Run(
        folder=folder,
        profile=PROFILE,
        manifest=body,
        routing=routing,
        derived=_derived_of(documents),
    )


def _documents(body: Json, folder: Path, events: list[Json], lines: tuple[int, ...]) -> Documents:
    """Return a v1 run as far as its documents are those of the other profile."""
    found: dict[str, Any] = {}
    if DERIVED in body["files"]:
        found["derived_events"], found["derived_lines"] = read_lines(folder / DERIVED)
    for name, file in (("motif_ledger", MOTIF_LEDGER), ("contingency", CONTINGENCY)):
        if file in body["files"]:
            found[name] = read_object(folder / file)
    return Documents(manifest=body, raw_events=events, layout={}, raw_lines=lines, **found)


def _derived_of(documents: Documents) -> dict[str, Any]:
    names = ("derived_events", "motif_ledger", "contingency")
    found = {name: getattr(documents, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _schema_issues(body: Json) -> Iterator[Issue]:
    for at, what, _ in _schema().violations(body):
        yield Issue(code=SCHEMA, what=what, document=MANIFEST, at=at)


@cache
def _schema() -> Schema:
    file = resources.files("pytest_falsify.routing") / "schema" / "routing-v1.schema.json"
    return Schema(json.loads(file.read_text(encoding="utf-8")), {"date-time": is_date_time})
