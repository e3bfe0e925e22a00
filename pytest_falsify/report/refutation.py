"""What a refuted claim looks like on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.verdict import Judged, Verdict
    from pytest_falsify.compare.comparison import SiteComparison
    from pytest_falsify.stages.vocabulary import Site

COLUMNS = ("site", "rel L2", "worst row", "at", "max |d|", "beyond")
BEFORE, AFTER = 2, 5


def render_refutation(
    claim: Claim, verdict: Verdict, *, place: str, command: str, is_full: bool
) -> str:
    """Return the text of a refutation: the place and reason first, then what was seen.

    Args:
        claim: what was refuted.
        verdict: why.
        place: ``path:line`` of the falsifier.
        command: what runs this one item again.
        is_full: show every site, not only those around the first one beyond its limit.
    """
    falsifier = claim.falsifier
    lines = [f"{place}: refuted: {'; '.join(verdict.reasons)}"]
    lines += _labelled("rule", falsifier.rule)
    lines += _labelled("predicted", falsifier.prediction)
    lines += _labelled("then", falsifier.if_fails)
    for judged in verdict.judged:
        if judged.violations:
            lines += ["", *comparison_table(judged, is_full=is_full)]
    lines += ["", f"  again:     {command}"]
    return "\n".join(lines)


def comparison_table(judged: Judged, *, is_full: bool) -> list[str]:
    """Return the sites in causal order, the first one beyond its limit marked with ``>``."""
    beyond = _broken_limits(judged)
    sites = judged.comparison.sites
    first = next(index for index, each in enumerate(sites) if each.site in beyond)
    shown = sites if is_full else sites[max(0, first - BEFORE) : first + AFTER]
    rows = [COLUMNS, *(_row(each, beyond.get(each.site, "")) for each in shown)]
    marks = [" ", *(">" if each is sites[first] else " " for each in shown)]
    lines = [f"  input `{judged.label}`: {len(beyond)} of {len(sites)} sites beyond their limits"]
    lines += [f"  {mark} {line}" for mark, line in zip(marks, _aligned(rows), strict=True)]
    if len(shown) < len(sites):
        lines.append(f"    ... {len(sites) - len(shown)} more sites with -v")
    if judged.advice:
        lines.append(f"  would pass: {judged.advice}")
    return lines


def _broken_limits(judged: Judged) -> dict[Site, str]:
    """Return, for each site beyond its limits, the limits that it breaks."""
    broken: dict[Site, list[str]] = {}
    for each in judged.violations:
        broken.setdefault(each.site, []).append(each.reason or str(each.limit))
    return {site: ", ".join(dict.fromkeys(limits)) for site, limits in broken.items()}


def _row(each: SiteComparison, broken: str) -> tuple[str, ...]:
    return (
        str(each.site),
        number(each.total.rel_l2),
        number(each.worst_row.rel_l2),
        _place(each.worst_position),
        number(each.total.max_abs),
        broken,
    )


def _place(position: Mapping[str, int]) -> str:
    return ",".join(f"{axis}={index}" for axis, index in position.items())


def number(value: float) -> str:
    """Return a number in three significant digits, and nought as ``0``."""
    return "0" if value == 0 else f"{value:.2e}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if column in {0, 3, 5} else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _labelled(label: str, text: str) -> list[str]:
    return [f"  {label + ':':<10} {' '.join(text.split())}"] if text else []
