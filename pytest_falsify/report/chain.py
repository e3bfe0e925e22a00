"""A localisation as a short table, one sentence, and JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_falsify.localize.expectation import accused, alike, and_more, explained
from pytest_falsify.report.comparison import number
from pytest_falsify.report.table import aligned
from pytest_falsify.words import number_are, number_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_falsify.localize.chain import Chain, Link

COLUMNS = ("site", "total", "inherited", "own", "floor", "own/floor", "verdict")
LEFT = frozenset({"site", "verdict"})
BEFORE, AFTER = 2, 2
GUILTY, UNDECIDED = ">", "?"


def conclusion(chain: Chain) -> str:
    """Return who is guilty and of what, one sentence for each fault."""
    if not chain.links:
        return "no operation could be done again"
    if chain.guilty:
        return "; ".join(accused(chain.guilty))
    if chain.undecided:
        each = chain.undecided[0]
        count = len(chain.undecided)
        return f"{number_are(count, 'operation')} undecided, first {each.site}: {each.own.reason}"
    return f"no operation is guilty: all {len(chain.links)} do what known-good code does"


def chain_table(chain: Chain, *, is_full: bool) -> list[str]:
    """Return the links in causal order; ``>`` marks the guilty, ``?`` the undecided.

    Args:
        chain: what a localisation found.
        is_full: show every link, not only those around the ones that are marked.
    """
    marks = [_mark(each) for each in chain.links]
    shown = [index for index in range(len(marks)) if is_full or _is_near(index, marks)]
    cells = [COLUMNS, *(_row(chain.links[index]) for index in shown)]
    gutter = [" ", *(marks[index] for index in shown)]
    lines = [
        f"{mark} {line}".rstrip() for mark, line in zip(gutter, aligned(cells, LEFT), strict=True)
    ]
    lines += [f"  {each}" for each in _notes(chain)]
    if len(shown) < len(marks):
        lines.append(f"  ... {number_of(len(marks) - len(shown), 'more operation')} with -v")
    return lines


def chain_json(chain: Chain) -> dict[str, Any]:
    """Return a localisation as a JSON value; numbers that are not finite are strings."""
    return {
        "conclusion": conclusion(chain),
        "divergence": None if chain.divergence is None else str(chain.divergence),
        "guilty": [str(each.site) for each in chain.guilty],
        "missing": [str(each) for each in chain.missing],
        "undecided": [str(each.site) for each in chain.undecided],
        "sites": [_link_json(each) for each in chain.links],
    }


def _link_json(link: Link) -> dict[str, Any]:
    named = link.named
    return {
        "site": str(link.site),
        "verdict": link.own.judgement.value,
        "reason": link.own.reason,
        "own": _json_number(link.own.error),
        "floor": _json_number(link.own.floor),
        "ratio": _json_number(link.own.ratio),
        "total": _json_number(link.total),
        "inherited": _json_number(link.inherited),
        "gain": _json_number(link.gain),
        "group": [str(each) for each in link.group],
        "fault": None if named is None else {"name": named.fault, "detail": named.detail},
    }


def _json_number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def _notes(chain: Chain) -> Iterator[str]:
    for first, *others in alike(chain.guilty):
        yield f"{first.site}{and_more(others)}: {explained(first)}"
    if chain.divergence is not None:
        yield str(chain.divergence)


def _mark(link: Link) -> str:
    if link.is_guilty:
        return GUILTY
    return UNDECIDED if link.own.judgement.value == "inconclusive" else " "


def _is_near(index: int, marks: list[str]) -> bool:
    """Tell whether a row, or one close to it, is marked; without any mark the first few are."""
    if not any(mark != " " for mark in marks):
        return index <= BEFORE + AFTER
    return any(mark != " " for mark in marks[max(0, index - AFTER) : index + BEFORE + 1])


def _row(link: Link) -> tuple[str, ...]:
    return (
        str(link.site),
        _told_number(link.total),
        _told_number(link.inherited),
        number(link.own.error),
        number(link.own.floor),
        f"{link.own.ratio:.3g}",
        link.own.judgement.value if not link.is_guilty else f"guilty: {link.own.reason}",
    )


def _told_number(value: float | None) -> str:
    return "-" if value is None else number(value)
