"""Divergence by depth as a PNG, drawn by matplotlib: the optional part ``pytest-falsify[plot]``.

It shows what ``picture`` shows, for places where an SVG cannot be looked at: chats, e-mails, wikis.
"""

from __future__ import annotations

from importlib import import_module
from itertools import groupby
from math import ceil, isfinite, log10
from typing import TYPE_CHECKING, Any

from pytest_falsify.report.comparison import beyond_of, number
from pytest_falsify.report.picture import MOST_TICKS, SERIES, floors, frame_of, stated_limits
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_falsify.checks.verdict import Judged
    from pytest_falsify.report.picture import Frame

figures: Any = import_module("matplotlib.figure")

COLOURS = {"total": "#0b6bcb", "row": "#b35900", "floor": "#59636e", "limit": "#8250df"}
FIRST, FAINT, BAND, GRID = "#cf222e", "#59636e", "#f3f5f7", "#d5dbe1"
PIXELS_PER_INCH = 100
OFF_SCALE = 0.5
"""How far beyond the axis exact and non-finite values stand, in decades."""
MOST_LAYERS = 32
ABOVE = 20
"""How far above the axes their title stands, in points: the first site beyond is named between."""


def write_png(judged: Judged, path: Path) -> None:
    """Write the picture of a comparison that has sites.

    Args:
        judged: a comparison and what in it goes beyond.
        path: the file to write.
    """
    frame = frame_of(judged)
    size = frame.width / PIXELS_PER_INCH, frame.height / PIXELS_PER_INCH
    figure = figures.Figure(figsize=size, dpi=PIXELS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    _bands(axes, judged)
    _allowed(axes, judged)
    for series in reversed(SERIES):
        values = [_height(frame, series.value(site)) for site in judged.comparison.sites]
        colour = COLOURS[series.name]
        axes.plot(values, color=colour, label=series.label, linewidth=1.2, marker=".")
    _first_beyond(axes, frame, judged)
    _scale(axes, frame, judged)
    beyond, count = len(beyond_of(judged)), frame.count
    title = f"Divergence by depth, input `{judged.label}`"
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    told = f"{beyond} of {number_of(count, 'site')} beyond what is allowed"
    axes.set_title(told, loc="left", color=FAINT, fontsize="medium", pad=ABOVE)
    figure.savefig(path, format="png")


def _height(frame: Frame, value: float) -> float:
    """Return the decade of a value; exact ones stand below the axis, what is not finite above."""
    if value == 0:
        return frame.low - OFF_SCALE
    return log10(value) if isfinite(value) else frame.high + OFF_SCALE


def _scale(axes: Any, frame: Frame, judged: Judged) -> None:
    every = ceil((frame.high - frame.low) / MOST_TICKS)
    ticks = {float(each): f"1e{each:+03d}" for each in range(frame.low, frame.high + 1, every)}
    ticks |= {frame.low - OFF_SCALE: "equal"} if frame.has_exact else {}
    ticks |= {frame.high + OFF_SCALE: "not finite"} if frame.has_stray else {}
    axes.set_yticks(list(ticks), list(ticks.values()))
    layers = _layers(judged)
    shown = layers[:: ceil(len(layers) / MOST_LAYERS) or 1]
    axes.set_xticks([(start + end - 1) / 2 for start, end, _ in shown], [str(n) for *_, n in shown])
    axes.set_xlim(-0.5, frame.count - 0.5)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("layer (sites in causal order; what has no layer stands before and after)")
    axes.set_ylabel("relative L2 error |d| / |x| (log scale)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, frameon=False)


def _layers(judged: Judged) -> list[tuple[int, int, int]]:
    """Return where the sites of each layer begin and end, and its number, step by step."""
    found, start = [], 0
    sites = judged.comparison.sites
    for (_, layer), group in groupby(sites, lambda each: (each.site.step, each.site.layer)):
        end = start + len(list(group))
        if layer is not None:
            found.append((start, end, layer))
        start = end
    return found


def _bands(axes: Any, judged: Judged) -> None:
    for start, end, layer in _layers(judged):
        if layer % 2:
            axes.axvspan(start - 0.5, end - 0.5, color=BAND, zorder=0)


def _allowed(axes: Any, judged: Judged) -> None:
    frame, places = frame_of(judged), floors(judged)
    if places:
        heights = [_height(frame, floor) for _, floor in places]
        label, colour = "floor (the control's error)", COLOURS["floor"]
        axes.plot([index for index, _ in places], heights, "--", color=colour, label=label)
    for limit in stated_limits(judged):
        label, colour = "limit of the whole tensor", COLOURS["limit"]
        axes.axhline(_height(frame, limit), linestyle=":", color=colour, label=label)


def _first_beyond(axes: Any, frame: Frame, judged: Judged) -> None:
    beyond = beyond_of(judged)
    for index, each in enumerate(judged.comparison.sites):
        if each.site in beyond:
            axes.axvline(index, color=FIRST, linewidth=1.2)
            is_left = index > frame.count / 2
            text = f"first beyond: {each.site}, {number(each.total.rel_l2)}"
            at = (index + (-0.4 if is_left else 0.4), 1.01)
            where = {"transform": axes.get_xaxis_transform(), "color": FIRST}
            axes.text(*at, text, ha="right" if is_left else "left", **where)
            return
