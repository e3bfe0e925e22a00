"""Where a contract keeps its falsifiers, whichever dialect it is written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_falsify.contracts.problems import Steps

TESTS = "falsification_tests"
OLD_TESTS = "falsification"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One falsifier as it is written.

    Attributes:
        at: the way to it from the top of the document.
        id: its own id, the key it stands under, or one made from its position.
        is_named: the id was written by a person.
    """

    at: Steps
    id: str
    is_named: bool
    body: Mapping[str, Any]


def is_contract(data: Any) -> bool:
    """Tell whether a parsed document declares falsifiers."""
    return isinstance(data, dict) and (
        TESTS in data or isinstance(data.get(OLD_TESTS), (list, dict))
    )


def entries(data: Mapping[str, Any]) -> list[Entry]:
    """Return the falsifiers of a contract, in the order in which they are written.

    An entry of the old ``falsification`` mapping that repeats the id of a falsifier is a note about
    it and not another one.
    """
    found = list(_listed(TESTS, data.get(TESTS)))
    known = {entry.id for entry in found}
    older = data.get(OLD_TESTS)
    notes = known if isinstance(older, dict) else set()
    return found + [entry for entry in _listed(OLD_TESTS, older) if entry.id not in notes]


def _listed(key: str, value: Any) -> Iterator[Entry]:
    if isinstance(value, dict):
        for name, body in value.items():
            if isinstance(body, dict):
                yield Entry(at=(key, name), id=str(body.get("id", name)), is_named=True, body=body)
    elif isinstance(value, list):
        for position, body in enumerate(value):
            if isinstance(body, dict):
                yield _item(key, position, body)


def _item(key: str, position: int, body: Mapping[str, Any]) -> Entry:
    written = body.get("id")
    name = f"{key}-{position + 1}" if written is None else str(written)
    return Entry(at=(key, position), id=name, is_named=written is not None, body=body)
