"""What a survey counted, by the length of the prompts: a table for terminals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.report.table import aligned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_falsify.checks.counted import Counted
    from pytest_falsify.compare.rates import Rate

_LEFT = {"tokens", "interval", ""}


def counted_table(counted: Counted) -> list[str]:
    """Return a line a bucket of lengths, one of all prompts, and where answers begin to differ."""
    return [*_buckets(counted), *_asides(counted)]


def _buckets(counted: Counted) -> Iterator[str]:
    header = ("tokens", "prompts", "differ", "rate", "interval", "unjudged", "")
    rows = [
        _row(each.label, each.rate, each.unjudged, counted, note=_note(counted, each.label))
        for each in counted.buckets
    ]
    rows.append(_row("all", counted.rate, len(counted.unjudged), counted))
    if counted.control_rate is not None:
        rows.append(_row("control", counted.control_rate, 0, counted))
    return aligned([header, *rows], _LEFT)


def _row(
    label: str, rate: Rate | None, unjudged: int, counted: Counted, *, note: str = ""
) -> Sequence[str]:
    lost = str(unjudged) if unjudged else ""
    if rate is None:
        return label, "0", "", "", "", lost, note
    low, high = rate.interval(counted.confidence)
    interval = f"{low:.3f} to {high:.3f}"
    return label, str(rate.total), str(rate.count), f"{rate.share:.3f}", interval, lost, note


def _note(counted: Counted, label: str) -> str:
    if label in {each.label for each in counted.beyond}:
        return "beyond alone"
    is_worst = counted.worst is not None and counted.worst.label == label
    return "worst" if is_worst and counted.differing else ""


def _asides(counted: Counted) -> Iterator[str]:
    if places := counted.places():
        told = ", ".join(f"token {label} in {count}" for label, count in places.items())
        yield f"first difference: {told}"
    if counted.differing:
        yield f"differing: {', '.join(counted.first_differing)}"
    if counted.unjudged:
        first = counted.unjudged[0]
        yield f"not judged: {len(counted.unjudged)}, the first {first.id}: {first.lack}"
