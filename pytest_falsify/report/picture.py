"""Divergence by depth as a picture: SVG by hand, so that it needs nothing and reads anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, isfinite, log10
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

from pytest_falsify.errors import CaptureError
from pytest_falsify.report.comparison import beyond_of, number
from pytest_falsify.report.svg import text
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pytest_falsify.checks.verdict import Judged
    from pytest_falsify.compare.comparison import SiteComparison

LEFT, RIGHT, TOP, PLOT_HEIGHT, BOTTOM, STEPS = 84, 20, 104, 300, 54, 18
NARROWEST, WIDEST, SITE_WIDTH = 680, 1600, 9
OFF_SCALE = 20
"""How far beyond the axis exact and non-finite values stand, in pixels."""
FEWEST_DECADES, MOST_TICKS = 2, 8
LABEL_WIDTH, CHARACTER_WIDTH = 26, 6.6

STYLE = """
.ground{fill:#fff}.band{fill:#f3f5f7}.text{fill:#1f2328}.faint{fill:#59636e}
.grid{stroke:#d5dbe1}.axis{stroke:#59636e}
.total{stroke:#0b6bcb;fill:#0b6bcb}.row{stroke:#b35900;fill:#b35900}
.floor{stroke:#59636e}.limit{stroke:#8250df}.first{stroke:#cf222e}.mark{fill:#cf222e}
@media (prefers-color-scheme:dark){
.ground{fill:#0d1117}.band{fill:#171d25}.text{fill:#e6edf3}.faint{fill:#9198a1}
.grid{stroke:#2d343c}.axis{stroke:#9198a1}
.total{stroke:#58a6ff;fill:#58a6ff}.row{stroke:#e39b3a;fill:#e39b3a}
.floor{stroke:#9198a1}.limit{stroke:#bc8cff}.first{stroke:#ff7b72}.mark{fill:#ff7b72}
}
text{font:12px ui-sans-serif,system-ui,"Segoe UI","DejaVu Sans",sans-serif}
.title{font-size:15px;font-weight:600}
path{fill:none!important}
"""


def write_picture(judged: Judged, path: Path) -> None:
    """Write the picture of a comparison.

    Args:
        judged: a comparison and what in it goes beyond.
        path: a file that ends in ``.svg``, or in ``.png`` where matplotlib is installed.

    Raises:
        CaptureError: for another ending, without matplotlib, or when there is nothing to draw.
    """
    if path.suffix not in {".svg", ".png"}:
        msg = f"a picture cannot be written as {path.suffix or 'a file without an ending'}"
        raise CaptureError(msg, path=path, expected="a file that ends in .svg or .png")
    if not judged.comparison.sites:
        msg = "there is nothing to draw: no site was compared"
        raise CaptureError(msg, path=path)
    if path.suffix == ".svg":
        path.write_text(picture(judged), encoding="utf-8")
    else:
        _write_png(judged, path)


def _write_png(judged: Judged, path: Path) -> None:
    try:
        from pytest_falsify.report.plot import write_png
    except ImportError as error:
        msg = f"a .png is drawn by matplotlib, which is not installed ({error})"
        remedy = 'pip install "pytest-falsify[plot]", or write an .svg, which needs nothing'
        raise CaptureError(msg, path=path, remedy=remedy) from error
    write_png(judged, path)


def picture(judged: Judged) -> str:
    """Return an SVG: the sites in causal order along x, log10 of the relative L2 error along y.

    Exact sites stand below the axis, what is not finite above it. Every point tells its site and
    its numbers when pointed at. Colours follow the reader's light or dark scheme.
    """
    frame = frame_of(judged)
    body = [*_ground(frame, judged), *_bands(frame, judged), *_grid(frame)]
    body += [*_allowed(frame, judged), *_errors(frame, judged), *_first_beyond(frame, judged)]
    size = f'width="{frame.width}" height="{frame.height}"'
    box = f'viewBox="0 0 {frame.width} {frame.height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box}'
    lines = [f'{head} role="img">', f"<style>{STYLE}</style>", *body, "</svg>"]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where things stand.

    Attributes:
        low: the lowest decade.
        high: the highest.
        count: how many sites there are.
        has_exact: some value is 0 and stands below the axis.
        has_stray: some value is not finite and stands above it.
        is_stepped: there are decode steps, told below the layers.
    """

    width: int
    low: int
    high: int
    count: int
    has_exact: bool
    has_stray: bool
    is_stepped: bool

    @property
    def height(self) -> int:
        """The picture's height."""
        return self.bottom + BOTTOM + (STEPS if self.is_stepped else 0)

    @property
    def top(self) -> int:
        """The y of the highest decade."""
        return TOP + (OFF_SCALE if self.has_stray else 0)

    @property
    def axis(self) -> int:
        """The y of the lowest decade."""
        return self.top + PLOT_HEIGHT

    @property
    def bottom(self) -> int:
        """The y below which the captions stand."""
        return self.axis + (OFF_SCALE if self.has_exact else 0)

    @property
    def step(self) -> float:
        """How wide a site's place is."""
        return (self.width - LEFT - RIGHT) / self.count

    def x(self, index: float) -> float:
        """The middle of a site's place."""
        return LEFT + (index + 0.5) * self.step

    def y(self, value: float) -> float:
        """The height of a value."""
        if value == 0:
            return self.axis + OFF_SCALE
        if not isfinite(value):
            return self.top - OFF_SCALE
        return self.axis - (log10(value) - self.low) / (self.high - self.low) * PLOT_HEIGHT


class Series(NamedTuple):
    """One line: its class in the SVG, its name in the legend, and its value at a site."""

    name: str
    label: str
    value: Callable[[SiteComparison], float]


SERIES = (
    Series("row", "worst row", lambda site: site.worst_row.rel_l2),
    Series("total", "whole tensor", lambda site: site.total.rel_l2),
)


def frame_of(judged: Judged) -> Frame:
    """Return where the sites of a comparison stand."""
    sites = judged.comparison.sites
    values = [series.value(site) for site in sites for series in SERIES]
    scaled = [*values, *(each.floor for each in judged.noise), *stated_limits(judged)]
    usable = [value for value in scaled if value > 0 and isfinite(value)] or [1.0]
    low, high = floor(log10(min(usable))), ceil(log10(max(usable)))
    high = max(high, low + FEWEST_DECADES)
    width = LEFT + RIGHT + SITE_WIDTH * len(sites)
    return Frame(
        width=min(max(width, NARROWEST), WIDEST),
        low=low,
        high=high,
        count=len(sites),
        has_exact=0 in values,
        has_stray=not all(map(isfinite, values)),
        is_stepped=any(site.site.step for site in sites),
    )


def stated_limits(judged: Judged) -> list[float]:
    """Return the one stated limit of the relative L2 error, where there is one."""
    found = {each.limit.value for each in judged.violations if each.metric == "rel_l2"}
    return list(found) if len(found) == 1 else []


def floors(judged: Judged) -> list[tuple[int, float]]:
    """Return the place among the sites and the floor of each that has one.

    Decode steps that were judged together have the floor of their pool.
    """
    own = {each.site: each.floor for each in judged.noise}
    pooled = {
        (each.site.layer, each.site.stage): each.floor for each in judged.noise if each.steps > 1
    }
    found = []
    for index, each in enumerate(judged.comparison.sites):
        pool = pooled.get((each.site.layer, each.site.stage)) if each.site.step > 0 else None
        floor = own.get(each.site, pool)
        if floor is not None:
            found.append((index, floor))
    return found


def _ground(frame: Frame, judged: Judged) -> Iterator[str]:
    beyond, count = len(beyond_of(judged)), frame.count
    yield f'<rect class="ground" width="{frame.width}" height="{frame.height}"/>'
    title = f"Divergence by depth, input `{judged.label}`"
    yield text(LEFT, 24, title, "text title")
    yield text(LEFT, 44, f"{beyond} of {number_of(count, 'site')} beyond what is allowed", "faint")
    middle = (frame.top + frame.axis) / 2
    turn = f'transform="rotate(-90 18 {middle:.1f})"'
    yield text(18, middle, "relative L2 error |d| / |x| (log scale)", "text", "middle", turn)
    caption = "layer (sites in causal order; what has no layer stands before and after)"
    yield text((LEFT + frame.width - RIGHT) / 2, frame.height - 14, caption, "text", "middle")
    yield from _legend(judged)


def _legend(judged: Judged) -> Iterator[str]:
    entries = [(series.name, series.label, "") for series in reversed(SERIES)]
    if judged.noise:
        entries.append(("floor", "floor (the control's error)", ' stroke-dasharray="5 4"'))
    if stated_limits(judged):
        entries.append(("limit", "limit of the whole tensor", ' stroke-dasharray="2 3"'))
    x = float(LEFT)
    for name, label, dash in entries:
        yield f'<path class="{name}" stroke-width="2"{dash} d="M{x:.1f} 62H{x + 22:.1f}"/>'
        yield text(x + 28, 66, label, "text")
        x += 28 + len(label) * CHARACTER_WIDTH + 22


def _bands(frame: Frame, judged: Judged) -> Iterator[str]:
    """Yield a band for every second layer, and the layers' numbers as far as there is room."""
    start, shown_to = 0, 0.0
    sites = judged.comparison.sites
    for (step, layer), group in groupby(sites, lambda each: (each.site.step, each.site.layer)):
        length = len(list(group))
        left, width = LEFT + start * frame.step, length * frame.step
        if layer is not None and layer % 2:
            across, down = f'x="{left:.1f}" width="{width:.1f}"', frame.bottom - frame.top
            yield f'<rect class="band" {across} y="{frame.top}" height="{down}"/>'
        middle = left + width / 2
        if layer is not None and middle >= shown_to:
            yield text(middle, frame.bottom + 18, str(layer), "text", "middle")
            shown_to = middle + LABEL_WIDTH
        if frame.is_stepped and (start == 0 or sites[start - 1].site.step != step):
            yield text(left, frame.bottom + 36, f"step {step}", "faint")
        start += length


def _grid(frame: Frame) -> Iterator[str]:
    right = frame.width - RIGHT
    every = ceil((frame.high - frame.low) / MOST_TICKS)
    for decade in range(frame.low, frame.high + 1, every):
        y = frame.y(10.0**decade)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>'
        yield text(LEFT - 8, y + 4, f"1e{decade:+03d}", "text", "end")
    if frame.has_exact:
        yield text(LEFT - 8, frame.y(0) + 4, "equal", "faint", "end")
    if frame.has_stray:
        yield text(LEFT - 8, frame.y(float("inf")) + 4, "not finite", "faint", "end")
    yield f'<path class="axis" d="M{LEFT} {frame.top}V{frame.bottom}H{right}"/>'


def _allowed(frame: Frame, judged: Judged) -> Iterator[str]:
    if places := floors(judged):
        dash = 'stroke-width="2" stroke-dasharray="5 4"'
        yield f'<path class="floor" {dash} d="{_line(frame, places)}"/>'
    for limit in stated_limits(judged):
        across = f"M{LEFT} {frame.y(limit):.1f}H{frame.width - RIGHT}"
        yield f'<path class="limit" stroke-width="2" stroke-dasharray="2 3" d="{across}"/>'


def _errors(frame: Frame, judged: Judged) -> Iterator[str]:
    for series in SERIES:
        values = [series.value(site) for site in judged.comparison.sites]
        line = _line(frame, enumerate(values))
        yield f'<path class="{series.name}" stroke-width="1.5" d="{line}"/>'
        for index, (site, value) in enumerate(zip(judged.comparison.sites, values, strict=True)):
            told = f"{site.site}, {series.label}: {number(value)}"
            yield (
                f'<circle class="{series.name}" cx="{frame.x(index):.1f}" '
                f'cy="{frame.y(value):.1f}" r="{min(2.5, frame.step / 2):.1f}">'
                f"<title>{escape(told)}</title></circle>"
            )


def _first_beyond(frame: Frame, judged: Judged) -> Iterator[str]:
    beyond = beyond_of(judged)
    for index, each in enumerate(judged.comparison.sites):
        if each.site in beyond:
            x = frame.x(index)
            is_left = x > (LEFT + frame.width) / 2
            at, anchor = (x - 6, "end") if is_left else (x + 6, "start")
            label = f"first beyond: {each.site}, {number(each.total.rel_l2)}"
            down = f"M{x:.1f} {TOP - 6}V{frame.bottom}"
            yield f'<path class="first" stroke-width="1.5" d="{down}"/>'
            yield text(at, TOP - 10, label, "mark", anchor)
            return


def _line(frame: Frame, places: Iterable[tuple[int, float]]) -> str:
    points = [f"{frame.x(index):.1f} {frame.y(value):.1f}" for index, value in places]
    return "M" + "L".join(points)
