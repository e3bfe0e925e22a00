"""A comparison as a table in causal order, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.checks.rule import UNCALIBRATED
from pytest_falsify.compare.noise import Judgement
from pytest_falsify.report.table import aligned
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.checks.verdict import Judged
    from pytest_falsify.compare.comparison import SiteComparison
    from pytest_falsify.compare.noise import SiteNoise
    from pytest_falsify.stages.vocabulary import Site

STATED = ("site", "rel L2", "worst row", "at", "max |d|", "beyond")
MEASURED = ("site", "floor", "rel L2", "ratio", "row ratio", "at", "beyond")
LEFT = {"site", "at", "beyond"}
BEFORE, AFTER = 2, 5


def comparison_table(judged: Judged, *, is_full: bool) -> list[str]:
    """Return the sites in causal order, the first one beyond its limit or floor marked with ``>``.

    Args:
        judged: a comparison and what in it goes beyond.
        is_full: show every site, not only those around the first one beyond.
    """
    beyond = beyond_of(judged)
    sites = judged.comparison.sites
    first = next((index for index, each in enumerate(sites) if each.site in beyond), None)
    around = slice(0, AFTER) if first is None else slice(max(0, first - BEFORE), first + AFTER)
    shown = sites if is_full else sites[around]
    noise = {each.site: each for each in judged.noise}
    columns = MEASURED if noise else STATED
    rows = [_row(each, noise.get(each.site), beyond.get(each.site, "")) for each in shown]
    cells = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    marks = [" ", *(">" if first is not None and each is sites[first] else " " for each in shown)]
    what = "floor" if noise and not judged.violations else "limits"
    mark = uncalibrated(judged.calibration)
    count = f"{len(beyond)} of {number_of(len(sites), 'site')}"
    lines = [f"  input `{judged.label}`: {count} beyond their {what}{mark}"]
    lines += [f"  {mark} {line}" for mark, line in zip(marks, aligned(cells, LEFT), strict=True)]
    if len(shown) < len(sites):
        lines.append(f"    ... {number_of(len(sites) - len(shown), 'more site')} with -v")
    if judged.advice:
        lines.append(f"  would pass: {judged.advice}")
    return lines


def uncalibrated(calibration: str) -> str:
    """Return the label of what was not measured, to stand behind it."""
    return f" ({UNCALIBRATED})" if calibration == UNCALIBRATED else ""


def beyond_of(judged: Judged) -> dict[Site, str]:
    """Return, for each site beyond a limit or its floor, which and how."""
    broken: dict[Site, list[str]] = {}
    for violation in judged.violations:
        broken.setdefault(violation.site, []).append(violation.reason or str(violation.limit))
    for noise in judged.beyond(Judgement.BUG):
        broken.setdefault(noise.site, []).append(noise.reason)
    return {site: ", ".join(dict.fromkeys(reasons)) for site, reasons in broken.items()}


def comparison_json(judged: Judged) -> dict[str, Any]:
    """Return a comparison as a JSON value; what is not finite is a string."""
    beyond = beyond_of(judged)
    noise = {each.site: each for each in judged.noise}
    return {
        "input": judged.label,
        "missing": [str(site) for site in judged.comparison.missing],
        "sites": [
            {
                "site": str(each.site),
                "beyond": beyond.get(each.site),
                "total": each.total.to_json(),
                "worst_row": {**each.worst_row.to_json(), "at": dict(each.worst_position)},
                **_noise_json(noise.get(each.site)),
            }
            for each in judged.comparison.sites
        ],
    }


def number(value: float) -> str:
    """Return a number in three significant digits, and nought as ``0``."""
    return "0" if value == 0 else f"{value:.2e}"


def _row(each: SiteComparison, noise: SiteNoise | None, beyond: str) -> dict[str, str]:
    row = {
        "site": str(each.site),
        "rel L2": number(each.total.rel_l2),
        "worst row": number(each.worst_row.rel_l2),
        "at": _place(each.worst_position),
        "max |d|": number(each.total.max_abs),
        "beyond": beyond,
    }
    if noise is None:
        return row
    return row | {
        "floor": number(noise.floor),
        "ratio": f"{noise.ratio:.2f}",
        "row ratio": f"{noise.row_ratio:.2f}",
        "at": _place(noise.row_position),
    }


def _noise_json(noise: SiteNoise | None) -> dict[str, Any]:
    if noise is None:
        return {}
    numbers = {
        name: getattr(noise, name) for name in ("floor", "ratio", "low", "high", "row_ratio")
    }
    settled = {name: value if _is_finite(value) else str(value) for name, value in numbers.items()}
    return {"noise": {"judgement": noise.judgement.value, "reason": noise.reason, **settled}}


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")


def _place(position: Mapping[str, int]) -> str:
    return ",".join(f"{axis}={index}" for axis, index in position.items())
