"""A ledger diff for people and for CI: plain text, Markdown, JSON and GitHub annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.canonical import canonical_text
from pytest_falsify.ledger.diff import Kind
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_falsify.ledger.diff import Change, Difference, NumberChange

MARKDOWN_BYTES = 60_000
"""GitHub refuses a comment of 65,536 characters; there must be room for a frame around ours."""

_ANNOTATIONS = 9
_NUMBERS = 6
_TITLES = {
    Kind.REGRESSED: "Regressed",
    Kind.STALE: "Stale",
    Kind.ORPHANED: "Orphaned",
    Kind.NEW: "New",
    Kind.PROMOTED: "Promoted",
    Kind.UPDATED: "Updated",
}


def summary(difference: Difference) -> str:
    """Return the counts in one line."""
    counts = difference.counts()
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def to_text(difference: Difference) -> str:
    """Return the diff for a terminal."""
    lines = [f"ledger: {summary(difference)}"]
    for kind in Kind:
        changes = difference.of(kind)
        if changes:
            lines += ["", f"{_TITLES[kind].upper()} ({len(changes)})"]
            lines += [line for each in changes for line in _text_lines(each)]
    return "\n".join(lines) + "\n"


def to_markdown(difference: Difference, *, limit: int = MARKDOWN_BYTES) -> str:
    """Return the diff as Markdown for a comment, cut to a number of UTF-8 bytes.

    Regressions come first, so what is cut is what matters least; the counts are never cut.
    """
    lines = [f"**Ledger**: {summary(difference)}"]
    room = limit - _size(lines[0]) - _size(_more(len(difference.changes)))
    shown = 0
    for kind in Kind:
        changes = difference.of(kind)
        head = ["", f"### {_TITLES[kind]} ({len(changes)})", "", *_TABLE_HEAD]
        for number, each in enumerate(changes):
            rows = [*([] if number else head), _row(each)]
            room -= sum(_size(row) for row in rows)
            if room < 0:
                return "\n".join([*lines, _more(len(difference.changes) - shown)]) + "\n"
            lines += rows
            shown += 1
    return "\n".join(lines) + "\n"


def to_json(difference: Difference) -> str:
    """Return the diff as canonical JSON."""
    return canonical_text(
        {
            "changes": [_change_to_json(each) for each in difference.changes],
            "counts": difference.counts(),
        }
    )


def to_github(
    difference: Difference,
    places: Mapping[tuple[str, str], tuple[str, int | None]] | None = None,
) -> str:
    """Return workflow commands that annotate the contracts: at most nine, then a count.

    GitHub shows ten errors and ten warnings of one step and drops the rest without a word.

    Args:
        difference: what changed.
        places: path and line of an entry, by contract and falsifier.
    """
    found = [each for each in difference.changes if _level(each)]
    lines = [_annotation(each, places or {}) for each in found[:_ANNOTATIONS]]
    if len(found) > _ANNOTATIONS:
        more = number_of(len(found) - _ANNOTATIONS, "more change")
        lines.append(f"::notice title=falsify::and {more}")
    lines.append(f"ledger: {summary(difference)}")
    return "\n".join(lines) + "\n"


_TABLE_HEAD = ("| falsifier | status | why | numbers |", "|---|---|---|---|")


def _text_lines(change: Change) -> Iterator[str]:
    yield f"  {change.falsifier}  {_statuses(change)}  ({change.contract})"
    yield f"      {change.because}"
    shown = change.numbers[:_NUMBERS]
    width = max((len(_name(each)) for each in shown), default=0)
    for each in shown:
        yield f"      {_name(each):<{width}}  {_values(each)}"
    if len(change.numbers) > _NUMBERS:
        yield f"      and {number_of(len(change.numbers) - _NUMBERS, 'more number')}"


def _statuses(change: Change) -> str:
    before = change.before.value if change.before else "(new)"
    after = change.after.value if change.after else "(gone)"
    return before if before == after else f"{before} -> {after}"


def _name(number: NumberChange) -> str:
    return f"{number.target}: {number.name}"


def _values(number: NumberChange) -> str:
    before = "-" if number.before is None else number.before
    after = "-" if number.after is None else number.after
    return f"{before} -> {after}"


def _row(change: Change) -> str:
    numbers = [f"{_name(each)} {_values(each)}" for each in change.numbers[:_NUMBERS]]
    if len(change.numbers) > _NUMBERS:
        numbers.append(f"and {len(change.numbers) - _NUMBERS} more")
    name = f"`{change.falsifier}` ({change.contract})"
    cells = [_cell(name), _cell(_statuses(change)), _cell(change.because)]
    return f"| {' | '.join(cells)} | {'<br>'.join(map(_cell, numbers))} |"


def _cell(text: str) -> str:
    """Text as it may stand in a table: nothing in a reason can end the cell or become HTML."""
    for old, new in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("@", "&#64;")):
        text = text.replace(old, new)
    return " ".join(text.split())


def _more(count: int) -> str:
    return f"\n... and {count} more; run `pytest-falsify diff` to see them"


def _size(text: str) -> int:
    return len(text.encode()) + 1


def _change_to_json(change: Change) -> dict[str, Any]:
    return {
        "after": change.after.value if change.after else None,
        "because": change.because,
        "before": change.before.value if change.before else None,
        "contract": change.contract,
        "falsifier": change.falsifier,
        "kind": change.kind.value,
        "numbers": [
            {
                "after": each.after,
                "before": each.before,
                "name": each.name,
                "target": each.target,
            }
            for each in change.numbers
        ],
    }


def _level(change: Change) -> str | None:
    if change.is_alarming:
        return "error"
    return "warning" if change.kind in {Kind.STALE, Kind.ORPHANED} else None


def _annotation(change: Change, places: Mapping[tuple[str, str], tuple[str, int | None]]) -> str:
    path, line = places.get((change.contract, change.falsifier), (None, None))
    title = f"{change.falsifier} {_statuses(change)}"
    properties = {"file": path, "line": line, "title": title}
    known = _properties((name, value) for name, value in properties.items() if value is not None)
    return f"::{_level(change)} {known}::{_escape(change.because)}"


def _properties(pairs: Iterable[tuple[str, object]]) -> str:
    return ",".join(f"{name}={_escape(str(value), ':,')}" for name, value in pairs)


def _escape(text: str, more: str = "") -> str:
    """Text as workflow commands want it (actions/toolkit, packages/core/src/command.ts)."""
    for each in "%\r\n" + more:
        text = text.replace(each, f"%{ord(each):02X}")
    return text
