"""Routing as a picture: who each token went to, who carries the load, and what differs.

SVG by hand, as in ``picture``: it needs nothing and reads anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np

from pytest_falsify.errors import CaptureError
from pytest_falsify.report.picture import STYLE
from pytest_falsify.report.svg import text
from pytest_falsify.routing.coherence import first_experts
from pytest_falsify.routing.difference import Kind
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_falsify.routing.difference import RoutingDifference
    from pytest_falsify.routing.trace import LayerRouting, Routing

LEFT, RIGHT, TOP, GAP, LINE = 64, 20, 84, 64, 16
AXIS_HEIGHT = 26
NARROWEST, WIDEST = 680, 1500
LARGEST_CELL, SMALLEST_CELL = 22.0, 3.0
MOST_TOKENS = 480
MOST_TITLES = 6000
"""More cells than these are drawn without the words that come up when they are pointed at."""
AXIS_SPACING = 30.0
READABLE = 11.0
"""From this width on a token's text stands below its column."""
TEXT_HEIGHT = 84
GOLDEN_ANGLE = 137.508
ONE_SHADE = 16
"""So many experts are told apart by their hues alone."""
MARKS = {Kind.FLIP: "flip", Kind.TIE: "tie", Kind.INHERITED: "inherited"}
MORE_STYLE = """
.flip{fill:#cf222e;stroke:#cf222e}.tie{fill:#bf8700;stroke:#bf8700}
.inherited{fill:#8c959f;stroke:#8c959f}
.mark{fill:none;stroke-width:2}.hot{fill:#0b6bcb}.same{fill:#d8dee4}
@media (prefers-color-scheme:dark){.same{fill:#2d343c}.hot{fill:#58a6ff}}
.small{font-size:10px}
"""


def write_routing_picture(
    routing: Routing, path: Path, found: RoutingDifference | None = None
) -> None:
    """Write the picture of a run, or of a run beside another.

    Args:
        routing: the run.
        path: a file that ends in ``.svg``.
        found: what differs from another run.

    Raises:
        CaptureError: for another ending.
    """
    if path.suffix != ".svg":
        msg = f"a picture cannot be written as {path.suffix or 'a file without an ending'}"
        raise CaptureError(msg, path=path, expected="a file that ends in .svg")
    path.write_text(routing_picture(routing, found), encoding="utf-8")


def routing_picture(routing: Routing, found: RoutingDifference | None = None) -> str:
    """Return an SVG: token by layer, coloured by the first expert; then each expert's load.

    With a comparison, what changed is marked in a map of its own between the two.
    """
    frame = _Frame.of(routing)
    body, y = [*_map(frame, routing)], frame.map_end
    if found is not None:
        body += _changes(frame, found, y)
        y += frame.map_height + GAP
    body += _loads(frame, routing, y)
    height = y + frame.load_height + GAP
    size = f'width="{frame.width}" height="{height:.0f}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {frame.width} {height:.0f}"'
    )
    lines = [f'{head} role="img">', f"<style>{STYLE}{MORE_STYLE}</style>"]
    lines.append(f'<rect class="ground" width="{frame.width}" height="{height:.0f}"/>')
    return "\n".join([*lines, *body, "</svg>"]) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """Where things stand.

    Attributes:
        layers: the layers' indices, top to bottom.
        count: how many tokens are drawn.
        cell: the width of one of them.
        row: the height of a layer.
        is_readable: tokens have their texts below.
    """

    width: int
    layers: tuple[int, ...]
    count: int
    cell: float
    row: float
    experts: int
    is_readable: bool

    @classmethod
    def of(cls, routing: Routing) -> _Frame:
        count = min(len(routing.tokens), MOST_TOKENS)
        room = WIDEST - LEFT - RIGHT
        cell = max(SMALLEST_CELL, min(LARGEST_CELL, room / count))
        layers = tuple(sorted(routing.layers))
        return cls(
            width=max(NARROWEST, round(LEFT + RIGHT + cell * count)),
            layers=layers,
            count=count,
            cell=cell,
            row=max(8.0, min(26.0, 400 / len(layers))),
            experts=max(each.experts for each in routing.layers.values()),
            is_readable=cell >= READABLE and any(routing.tokens.texts),
        )

    @property
    def map_height(self) -> float:
        return self.row * len(self.layers)

    @property
    def map_end(self) -> float:
        return TOP + self.map_height + AXIS_HEIGHT + GAP + (TEXT_HEIGHT if self.is_readable else 0)

    @property
    def load_height(self) -> float:
        return self.map_height + 2 * LINE

    @property
    def load_cell(self) -> float:
        return min(LARGEST_CELL, (self.width - LEFT - RIGHT) / self.experts)

    @property
    def has_titles(self) -> bool:
        return self.count * len(self.layers) <= MOST_TITLES


def colour(expert: int, experts: int) -> str:
    """Return an expert's colour: neighbours far apart in hue, and in three shades."""
    hue = (expert * GOLDEN_ANGLE) % 360
    shade = (38, 52, 66)[expert % 3] if experts > ONE_SHADE else 52
    return f"hsl({hue:.0f} 62% {shade}%)"


def _map(frame: _Frame, routing: Routing) -> Iterator[str]:
    total = len(routing.tokens)
    first = f"the first {frame.count} of " if frame.count < total else ""
    yield text(LEFT, 24, f"Routing of `{routing.facts.run_id}`", "text title")
    size = f"{first}{number_of(total, 'token')} by {number_of(len(frame.layers), 'layer')}"
    told = f"{size}, coloured by the first expert"
    yield text(LEFT, 44, told, "faint")
    yield text(LEFT - 8, TOP - 8, "layer", "faint", "end")
    firsts = first_experts(routing)
    for place, (index, experts) in enumerate(zip(frame.layers, firsts, strict=True)):
        yield from _label(frame, place, TOP)
        layer = routing.layers[index]
        for token in range(frame.count):
            fill = colour(int(experts[token]), layer.experts)
            told = _sent(routing, index, token) if frame.has_titles else ""
            yield _cell(frame, token, TOP + place * frame.row, f'fill="{fill}"', told)
    if frame.is_readable:
        yield from _token_texts(frame, routing)
    yield from _token_axis(frame, routing)


def _label(frame: _Frame, place: int, top: float) -> Iterator[str]:
    every = max(1, round(12 / frame.row))
    if place % every == 0:
        middle = top + (place + 0.5) * frame.row + 4
        yield text(LEFT - 8, middle, str(frame.layers[place]), "text", "end")


def _sent(routing: Routing, index: int, token: int) -> str:
    layer = routing.layers[index]
    pairs = zip(layer.indices[token].tolist(), layer.weights[token].tolist(), strict=True)
    experts = ", ".join(f"{expert} ({weight:.3f})" for expert, weight in pairs)
    name = f"token {routing.start + token} {routing.tokens.texts[token]!r}"
    return f"{name}, layer {index}: experts {experts}"


def _cell(frame: _Frame, token: int, y: float, attributes: str, told: str = "") -> str:
    x = LEFT + token * frame.cell
    gap = 0.6 if frame.cell > 2 * SMALLEST_CELL else 0.0
    place = f'x="{x:.1f}" y="{y:.1f}" width="{frame.cell - gap:.1f}" height="{frame.row - gap:.1f}"'
    if not told:
        return f"<rect {place} {attributes}/>"
    return f"<rect {place} {attributes}><title>{escape(told)}</title></rect>"


def _token_texts(frame: _Frame, routing: Routing) -> Iterator[str]:
    y = TOP + frame.map_height + 8
    for token in range(frame.count):
        x = LEFT + (token + 0.5) * frame.cell + 3
        words = routing.tokens.texts[token].replace(" ", "·")[:12]
        turn = f'transform="rotate(-90 {x:.1f} {y:.1f})"'
        yield text(x, y, words, "text small", "end", turn)


def _token_axis(frame: _Frame, routing: Routing) -> Iterator[str]:
    y = TOP + frame.map_height + 18 + (TEXT_HEIGHT if frame.is_readable else 0)
    every = next(
        each for each in (1, 5, 10, 20, 50, 100, 200, 500) if each * frame.cell >= AXIS_SPACING
    )
    for token in range(0, frame.count, every):
        x = LEFT + (token + 0.5) * frame.cell
        yield text(x, y, str(routing.start + token), "faint", "middle")
    yield text(LEFT - 8, y, "token", "faint", "end")


def _changes(frame: _Frame, found: RoutingDifference, top: float) -> Iterator[str]:
    counts = ", ".join(f"{len(found.of(kind))} {kind.value}" for kind in Kind)
    yield text(LEFT, top - 30, "What differs from the other run", "text title")
    yield text(LEFT, top - 12, f"choices that changed: {counts}", "faint")
    x = LEFT + 330.0
    for kind, name in MARKS.items():
        yield f'<rect class="{name}" x="{x:.1f}" y="{top - 21:.1f}" width="10" height="10"/>'
        yield text(x + 15, top - 12, kind.value, "text")
        x += 90
    changed = {(each.token, each.layer): each for each in found.changes}
    for place, index in enumerate(frame.layers):
        yield from _label(frame, place, top)
        for token in range(min(frame.count, found.tokens)):
            change = changed.get((token, index))
            name = "same" if change is None else MARKS[change.kind]
            told = "" if change is None else _change_words(change.taken, change.left_out)
            yield _cell(frame, token, top + place * frame.row, f'class="{name}"', told)


def _change_words(taken: tuple[int, ...], left_out: tuple[int, ...]) -> str:
    return f"experts {', '.join(map(str, taken))} instead of {', '.join(map(str, left_out))}"


def _loads(frame: _Frame, routing: Routing, top: float) -> Iterator[str]:
    yield text(LEFT, top - 30, "Load by expert", "text title")
    told = "share of a layer's places; full colour is four times an even share"
    yield text(LEFT, top - 12, told, "faint")
    for place, index in enumerate(frame.layers):
        yield from _label(frame, place, top)
        yield from _load_row(frame, routing.layers[index], index, top + place * frame.row)
    every = max(1, round(28 / frame.load_cell))
    bottom = top + frame.map_height
    for expert in range(frame.experts):
        corner = f'x="{LEFT + expert * frame.load_cell:.1f}" y="{bottom + 6:.1f}"'
        fill = colour(expert, frame.experts)
        yield f'<rect {corner} width="{frame.load_cell - 0.6:.1f}" height="6" fill="{fill}"/>'
        if expert % every == 0:
            x = LEFT + (expert + 0.5) * frame.load_cell
            yield text(x, bottom + 2 * LINE - 4, str(expert), "faint", "middle")
    yield text(LEFT - 8, bottom + 2 * LINE - 4, "expert", "faint", "end")


def _load_row(frame: _Frame, layer: LayerRouting, index: int, y: float) -> Iterator[str]:
    load = layer.load()
    shares = load / max(int(load.sum()), 1)
    opacity = np.minimum(shares * layer.experts / 4, 1.0)
    for expert in range(layer.experts):
        x = LEFT + expert * frame.load_cell
        places = number_of(int(load[expert]), "place")
        told = f"layer {index}, expert {expert}: {places}, {shares[expert]:.1%}"
        place = f'x="{x:.1f}" y="{y:.1f}" width="{frame.load_cell - 0.6:.1f}"'
        yield (
            f'<rect class="hot" fill-opacity="{opacity[expert]:.2f}" {place} '
            f'height="{frame.row - 0.6:.1f}"><title>{escape(told)}</title></rect>'
        )
