"""The command about legs: which of prefill, transfer and decode made a difference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_falsify.canonical import canonical_text
from pytest_falsify.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.side_by_side import Conclusion
    from pytest_falsify.compare.rates import Rate
    from pytest_falsify.disaggregation.recordings import Traced

_PATH = click.Path(path_type=Path)
_JSON = ".json"
WITHIN, BEYOND, UNDECIDED = 0, 1, 2
_WORDS = {WITHIN: "none", UNDECIDED: "undecided"}
COLUMNS = ("leg", "step", "layer", "what", "rel L2", "worst row", "max |d|", "cosine", "")
_LEFT = {"leg", "what", ""}


@click.command()
@click.argument("baseline", type=_PATH)
@click.argument("target", type=_PATH, required=False)
@click.option(
    "--expect",
    "expectations",
    multiple=True,
    metavar="YAML",
    help="what is allowed: '{worst_row: {max: 1e-3}}' or a YAML file; nothing, by default",
)
@click.option(
    "--max-rate",
    type=click.FloatRange(0, 1),
    help="of a batch's samples that may differ: held when the whole 95% interval is within it",
)
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
def trace(
    baseline: Path,
    target: Path | None,
    expectations: Sequence[str],
    max_rate: float | None,
    style: str,
) -> None:
    """Show by leg, layer and step how TARGET differs from BASELINE.

    Each is a capture, or an npz of caches after prefill, after transfer and during decode. What
    another tool wrote as JSON, a trace or the report of a batch, is read alone: it holds no values,
    only what was found.

    Status 0: no leg is beyond what is allowed. 1: one is; the first is named. 2: it could not be
    told.
    """
    if target is None:
        rows, status, reason = _recorded(baseline, max_rate)
    else:
        rows, status, reason = _compared(baseline, target, expectations)
    leg = next((row["leg"] for row in rows if row["is_beyond"]), _WORDS.get(status, "undecided"))
    if style == "json":
        click.echo(canonical_text({"leg": leg, "reason": reason, "stages": rows}), nl=False)
    else:
        click.echo("\n".join([f"leg: {leg} ({reason})", "", *_table(rows)]))
    sys.exit(status)


def _recorded(path: Path, max_rate: float | None) -> tuple[list[dict[str, Any]], int, str]:
    """Return what a trace or a report tells, and what that comes to."""
    from pytest_falsify.compare.rates import Rate
    from pytest_falsify.disaggregation.recordings import read_json

    if path.suffix != _JSON:
        msg = f"there is nothing to compare {path} with"
        raise ContractError(msg, expected="BASELINE and TARGET, or one trace in JSON")
    found = read_json(path)
    if not found:
        return [], UNDECIDED, "nothing was compared"
    if isinstance(found, Rate):
        return [], _rated(found, max_rate), f"{found} of a batch's texts differ"
    rows = [_traced(each) for each in found]
    if any(row["is_beyond"] for row in rows):
        beyond = sum(row["is_beyond"] for row in rows)
        return rows, BEYOND, f"{beyond} of {len(rows)} comparisons are beyond their thresholds"
    return rows, WITHIN, f"{len(rows)} comparisons are within their thresholds, uncalibrated"


def _rated(rate: Rate, limit: float | None) -> int:
    if limit is None:
        return BEYOND if rate.count else WITHIN
    return {True: WITHIN, False: BEYOND, None: UNDECIDED}[rate.is_within(limit)]


def _compared(
    baseline: Path, target: Path, expectations: Sequence[str]
) -> tuple[list[dict[str, Any]], int, str]:
    """Compare two recordings, and return what that comes to."""
    from pytest_falsify.captures.unstated import agreed
    from pytest_falsify.checks.side_by_side import conclude
    from pytest_falsify.cli.comparing import read_expectations

    oracle, subject = agreed([_read(each) for each in (baseline, target)])
    expect = read_expectations(expectations)
    conclusion = conclude(subject, oracle, expect=expect)
    return list(_sites(conclusion)), conclusion.standing.value, conclusion.reason


def _read(path: Path) -> Capture:
    from pytest_falsify.captures.folder import read_captures
    from pytest_falsify.disaggregation.recordings import NPZ, read_dump

    return read_dump(path) if path.suffix == NPZ else read_captures(path)


def _sites(conclusion: Conclusion) -> Iterable[dict[str, Any]]:
    from pytest_falsify.checks.verdict import finite
    from pytest_falsify.disaggregation.recordings import leg_of

    judged = conclusion.judged
    beyond = {each.site: each.position for each in judged.violations}
    for each in judged.comparison.sites:
        yield {
            "leg": leg_of(each.site).value,
            "step": max(each.site.step, 0),
            "layer": each.site.layer,
            "what": each.site.stage,
            "rel_l2": finite(each.total.rel_l2),
            "worst_row": finite(each.worst_row.rel_l2),
            "max_abs": finite(each.total.max_abs),
            "cosine": finite(each.total.cosine),
            "at": dict(beyond.get(each.site, {})),
            "is_beyond": each.site in beyond,
        }


def _traced(each: Traced) -> dict[str, Any]:
    from pytest_falsify.checks.verdict import finite

    return {
        "leg": each.leg.value,
        "step": max(each.step, 0),
        "layer": each.layer,
        "what": each.field,
        "rel_l2": None,
        "worst_row": None,
        "max_abs": finite(each.max_abs),
        "cosine": finite(each.cosine),
        "at": {},
        "is_beyond": each.is_beyond,
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    from pytest_falsify.report.table import aligned

    cells = [
        [
            row["leg"],
            str(row["step"]),
            "-" if row["layer"] is None else str(row["layer"]),
            row["what"],
            *(_short(row[name]) for name in ("rel_l2", "worst_row", "max_abs", "cosine")),
            _mark(row),
        ]
        for row in rows
    ]
    return list(aligned([COLUMNS, *cells], _LEFT)) if cells else []


def _mark(row: Mapping[str, Any]) -> str:
    if not row["is_beyond"]:
        return ""
    place = ", ".join(f"{name}={index}" for name, index in row["at"].items())
    return f"beyond at {place}" if place else "beyond"


def _short(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.3g}"


COMMANDS = (trace,)
