"""The rule about demands on evidence that no run of a check can meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.contracts.entries import entries
from pytest_falsify.contracts.lint.finding import Hit, Rule, Severity, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator


def _unmet_repeats(subject: Subject) -> Iterator[Hit]:
    for entry in entries(subject.document.data):
        discharge, check = entry.body.get("discharge"), entry.body.get("check")
        if not (isinstance(discharge, dict) and isinstance(check, dict)):
            continue
        kind = check.get("kind")
        if discharge.get("repeats") and kind not in subject.repeating:
            able = " or ".join(f"`{each}`" for each in sorted(subject.repeating)) or "no kind"
            text = f"`{kind}` repeats nothing, so this is never DISCHARGED; {able} records repeats"
            yield Hit(at=(*entry.at, "discharge"), text=text)


RULES = (
    Rule(
        id="unmet-repeats",
        reason="Repeats that are demanded of a check that repeats nothing are never on file.",
        severity=Severity.WARNING,
        look=_unmet_repeats,
    ),
)
