"""Rows of text in columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Container[str]) -> Iterator[str]:
    """Yield each row as a line, its cells under each other.

    Args:
        rows: the first one names the columns.
        left: the columns whose cells begin at the left; the others end at the right.
    """
    header = rows[0]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        cells = [
            cell.ljust(width) if name in left else cell.rjust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()
