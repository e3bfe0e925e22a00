"""A localisation as a picture: an SVG with a row for each stage and a column for each layer.

A cell is the darker, the farther the operation's own error is beyond its floor; a guilty one is
framed. What was not captured stays empty.
"""

from __future__ import annotations

from math import isfinite, log10
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from pytest_falsify.errors import CaptureError
from pytest_falsify.report.chain import conclusion
from pytest_falsify.report.comparison import number
from pytest_falsify.stages.vocabulary import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_falsify.localize.chain import Chain, Link

LEFT, TOP, CELL, ROW, MARGIN = 150, 78, 22, 20, 16
NARROWEST, CHARACTER = 520, 6.4
DECADES = 6
"""From the floor to so many decades beyond it a cell goes from clear to full."""
STYLE = """
.ground{fill:#fff}.text{fill:#1f2328}.faint{fill:#59636e}.cell{stroke:#d5dbe1}
.own{fill:#0b6bcb}.unsure{stroke:#b35900;stroke-width:2}.guilty{stroke:#cf222e;stroke-width:3}
@media (prefers-color-scheme:dark){
.ground{fill:#0d1117}.text{fill:#e6edf3}.faint{fill:#9198a1}.cell{stroke:#2d343c}
.own{fill:#58a6ff}.unsure{stroke:#e39b3a}.guilty{stroke:#ff7b72}
}
text{font:12px ui-sans-serif,system-ui,"Segoe UI","DejaVu Sans",sans-serif}
.title{font-size:15px;font-weight:600}
"""


def write_grid(chain: Chain, path: Path) -> None:
    """Write the picture of a localisation.

    Args:
        chain: what was found.
        path: a file that ends in ``.svg``.

    Raises:
        CaptureError: for another ending, or when there is nothing to draw.
    """
    if path.suffix != ".svg":
        msg = f"a picture cannot be written as {path.suffix or 'a file without an ending'}"
        raise CaptureError(msg, path=path, expected="a file that ends in .svg")
    if not chain.links:
        msg = "there is nothing to draw: no operation could be done again"
        raise CaptureError(msg, path=path)
    path.write_text(grid(chain), encoding="utf-8")


def grid(chain: Chain) -> str:
    """Return an SVG of the own errors by layer and stage; each cell tells its numbers."""
    steps = sorted({each.site.step for each in chain.links})
    layers = sorted({-1 if each.site.layer is None else each.site.layer for each in chain.links})
    stages = [name for name in STAGES if any(each.site.stage == name for each in chain.links)]
    columns = {
        (step, layer): index
        for index, (step, layer) in enumerate((step, layer) for step in steps for layer in layers)
    }
    width = max(NARROWEST, LEFT + CELL * len(columns) + MARGIN)
    height = TOP + ROW * len(stages) + MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    body = [
        f'<rect class="ground" width="{width}" height="{height}"/>',
        *_titles(chain, width),
        *_names(columns, stages),
        *(_cell(each, columns, stages) for each in chain.links),
    ]
    box = f'viewBox="0 0 {width} {height}" role="img">'
    return "\n".join([f"{head} {box}", f"<style>{STYLE}</style>", *body, "</svg>"]) + "\n"


def _titles(chain: Chain, width: int) -> Iterator[str]:
    room = int((width - 2 * MARGIN) / CHARACTER)
    told = conclusion(chain)
    told = told if len(told) <= room else f"{told[: room - 1]}…"
    yield _text(MARGIN, 24, "Own error of each operation, by layer and stage", "text title")
    yield _text(MARGIN, 44, told, "faint")


def _names(columns: dict[tuple[int, int], int], stages: list[str]) -> Iterator[str]:
    for index, name in enumerate(stages):
        yield _text(LEFT - 8, TOP + ROW * index + 14, name, "text", "end")
    for (_, layer), index in columns.items():
        label = "-" if layer < 0 else str(layer)
        yield _text(LEFT + CELL * (index + 0.5), TOP - 6, label, "faint", "middle")


def _cell(link: Link, columns: dict[tuple[int, int], int], stages: list[str]) -> str:
    layer = -1 if link.site.layer is None else link.site.layer
    x = LEFT + CELL * columns[link.site.step, layer]
    y = TOP + ROW * stages.index(link.site.stage)
    kind = {"bug": "guilty", "inconclusive": "unsure"}.get(link.own.judgement.value, "cell")
    told = (
        f"{link.site}: own {number(link.own.error)}, floor {number(link.own.floor)}, "
        f"{link.own.reason}"
    )
    return (
        f'<rect class="own {kind}" x="{x}" y="{y}" width="{CELL - 3}" height="{ROW - 3}" '
        f'fill-opacity="{_opacity(link):.2f}"><title>{escape(told)}</title></rect>'
    )


def _opacity(link: Link) -> float:
    if not isfinite(link.own.ratio):
        return 1.0
    decades = log10(link.own.ratio) if link.own.ratio > 1 else 0.0
    return min(1.0, 0.06 + decades / DECADES)


def _text(x: float, y: float, text: str, classes: str, anchor: str = "start") -> str:
    return f'<text class="{classes}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
