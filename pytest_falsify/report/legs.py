"""The legs of disaggregated serving by layer and step: a table that fits a terminal."""

from __future__ import annotations

from math import ceil, inf
from typing import TYPE_CHECKING, Any

from pytest_falsify.report.table import aligned

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Row = Mapping[str, Any]

COLUMNS = ("leg", "step", "layer", "what", "rel L2", "worst row", "max |d|", "cosine", "")
_LEFT = {"leg", "what", ""}
PREFILL, TRANSFER, DECODE = "prefill", "transfer", "decode"
MOST_DECODE_COLUMNS = 6
BEYOND = "!"
NOTE = f"the worst row's relative error, of keys and values; {BEYOND}: beyond what is allowed"


def site_table(rows: Sequence[Row]) -> list[str]:
    """Return a line a site, with where each that is beyond is so; nothing of nothing.

    Args:
        rows: also with ``what``, ``rel_l2``, ``max_abs``, ``cosine`` and ``at``.
    """
    cells = [
        [
            row["leg"],
            str(row["step"]),
            "-" if row["layer"] is None else str(row["layer"]),
            row["what"],
            *(_figure(row[name]) for name in ("rel_l2", "worst_row", "max_abs", "cosine")),
            _mark(row),
        ]
        for row in rows
    ]
    return list(aligned([COLUMNS, *cells], _LEFT)) if cells else []


def _mark(row: Row) -> str:
    if not row["is_beyond"]:
        return ""
    place = ", ".join(f"{name}={index}" for name, index in row["at"].items())
    return f"beyond at {place}" if place else "beyond"


def _figure(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.3g}"


def leg_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line a layer, with what each leg made of its cache; many decode steps are folded.

    Args:
        rows: of one input: ``leg``, ``step``, ``layer``, ``worst_row``, ``is_beyond``.
    """
    columns = _columns(rows)
    found: dict[int, dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(row["layer"], {}).setdefault(row["leg"], []).append(row)
    header = ["layer", *(_title(leg, steps) for leg, steps in columns)]
    lines = [
        [str(layer), *(_cell(legs.get(leg, ()), steps) for leg, steps in columns)]
        for layer, legs in sorted(found.items())
    ]
    return aligned([header, *lines], ())


def _columns(rows: Sequence[Row]) -> list[tuple[str, range]]:
    steps = sorted({row["step"] for row in rows if row["leg"] == DECODE})
    found = [(leg, range(1)) for leg in (PREFILL, TRANSFER)]
    if steps:
        end, size = steps[-1] + 1, ceil(len(steps) / MOST_DECODE_COLUMNS)
        starts = range(steps[0], end, size)
        found += [(DECODE, range(start, min(start + size, end))) for start in starts]
    return found


def _title(leg: str, steps: range) -> str:
    if leg != DECODE:
        return leg + " "
    numbers = str(steps[0]) if len(steps) == 1 else f"{steps[0]}-{steps[-1]}"
    return f"{leg} {numbers} " if steps[0] == 1 else numbers + " "


def _cell(rows: Sequence[Row], steps: range) -> str:
    """Return the worst of keys and values and of some steps, what is beyond before what is not."""
    found = [row for row in rows if row["step"] in steps]
    if not found:
        return "- "
    worst = max(found, key=lambda row: (row["is_beyond"], _size(row["worst_row"])))
    return _short(worst["worst_row"]) + (BEYOND if worst["is_beyond"] else " ")


def _size(value: float | str | None) -> float:
    """Return a number to order by: what is not finite, or was not shown, is the worst."""
    return value if isinstance(value, (int, float)) else inf


def _short(value: float | str | None) -> str:
    if value is None:
        return "missing"
    return value if isinstance(value, str) else f"{value:.2g}"
