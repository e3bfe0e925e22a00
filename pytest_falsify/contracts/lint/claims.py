"""The rule about statuses that people typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.contracts.entries import entries
from pytest_falsify.contracts.lint.finding import Hit, Rule, Severity, Subject
from pytest_falsify.contracts.statuses import REQUIRABLE, canonical_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_falsify.contracts.problems import Steps

_RANKS = {name: rank for rank, name in enumerate(REQUIRABLE, 1)}


def _overclaimed(subject: Subject) -> Iterator[Hit]:
    if subject.statuses is None:
        return
    actual = [subject.statuses.get(each.id, "UNTRIED") for each in subject.contract.falsifiers]
    for entry, falsifier, status in zip(
        entries(subject.document.data), subject.contract.falsifiers, actual, strict=True
    ):
        yield from _above(entry.at, falsifier.claimed_status, status)
    weakest = min(actual, key=lambda status: _RANKS.get(status, 0), default="UNTRIED")
    yield from _above((), subject.contract.claimed_status, weakest)


def _above(at: Steps, claimed: str | None, actual: str) -> Iterator[Hit]:
    status = canonical_status(claimed) if claimed else None
    if status and _RANKS.get(status, 0) > _RANKS.get(actual, 0):
        text = f"it claims `{claimed}`, and the ledger supports {actual}"
        yield Hit(at=at, text=text)


RULES = (
    Rule(
        id="overclaimed",
        reason="A status written by hand is above what the evidence on file supports.",
        severity=Severity.ERROR,
        look=_overclaimed,
    ),
)
