"""Rules about ids and keys."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_falsify.contracts.entries import entries
from pytest_falsify.contracts.lint.finding import Hit, Rule, Severity, Subject
from pytest_falsify.contracts.validate import SELECTABLE

if TYPE_CHECKING:
    from collections.abc import Iterator


def _duplicate_id(subject: Subject) -> Iterator[Hit]:
    for entry in entries(subject.document.data):
        path, line = subject.peers.falsifiers.get(entry.id, (subject.document.path, 0))
        if entry.is_named and path != subject.document.path:
            other = os.path.relpath(path, subject.document.path.parent)
            yield Hit(at=entry.at, text=f"`{entry.id}` is also an id in {other}, line {line}")


def _unselectable_id(subject: Subject) -> Iterator[Hit]:
    for entry in entries(subject.document.data):
        if not SELECTABLE.fullmatch(entry.id):
            yield Hit(at=entry.at, text=f"pytest's command line cannot select `{entry.id}`")


def _missing_id(subject: Subject) -> Iterator[Hit]:
    for entry in entries(subject.document.data):
        if not entry.is_named:
            text = f"it has no id and is listed as `{entry.id}`, which moves when entries move"
            yield Hit(at=entry.at, text=text)


def _unknown_key(subject: Subject) -> Iterator[Hit]:
    for notice in subject.contract.notices:
        yield Hit(at=notice.at, text=notice.text)


def _contradicting_metadata(subject: Subject) -> Iterator[Hit]:
    data = subject.document.data
    metadata = data.get("metadata") or {}
    for key in ("version", "kind", "status", "id"):
        top, inner = data.get(key), metadata.get(key)
        if top is not None and inner is not None and str(top) != str(inner):
            text = f"`{key}` is `{top}` here and `{inner}` in the metadata"
            yield Hit(at=(key,), text=text)


def _inert(subject: Subject) -> Iterator[Hit]:
    if not subject.contract.falsifiers:
        yield Hit(at=(), text="no falsifier: nothing could ever refute this contract")


RULES = (
    Rule(
        id="duplicate-id",
        reason="A Python test bound to an id that two contracts have supports either, or neither.",
        severity=Severity.WARNING,
        look=_duplicate_id,
    ),
    Rule(
        id="unselectable-id",
        reason="An id that pytest's command line cannot name cannot be run alone.",
        severity=Severity.WARNING,
        look=_unselectable_id,
    ),
    Rule(
        id="missing-id",
        reason="An id made from a position names another claim as soon as an entry is added.",
        severity=Severity.WARNING,
        look=_missing_id,
    ),
    Rule(
        id="unknown-key",
        reason="A key that nothing reads says something that nothing checks.",
        severity=Severity.NOTE,
        look=_unknown_key,
    ),
    Rule(
        id="contradicting-metadata",
        reason="The same fact written in two places differs between them.",
        severity=Severity.WARNING,
        look=_contradicting_metadata,
    ),
    Rule(
        id="inert-contract",
        reason="A contract without falsifiers cannot fail, so it proves nothing.",
        severity=Severity.WARNING,
        look=_inert,
    ),
)
