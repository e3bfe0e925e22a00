"""The command about legs: which of prefill, transfer and decode made a difference."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click

from pytest_falsify.canonical import canonical_text
from pytest_falsify.cli.batches import are_batches, compared_batches
from pytest_falsify.errors import ContractError
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.cli.served import Traced
    from pytest_falsify.compare.rates import Rate

_PATH = click.Path(path_type=Path)
_JSON = ".json"
WITHIN, BEYOND, UNDECIDED = 0, 1, 2
_WORDS = {WITHIN: "none", UNDECIDED: "undecided"}
WIDTH = 100


@click.command()
@click.argument("baseline")
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
@click.option(
    "--baseline",
    "oracle",
    metavar="YAML",
    help="of a model: the options of the engine that is trusted",
)
@click.option("--target", "subject", metavar="YAML", help="of a model: those of the one on trial")
@click.option("--text", help="of a model: what it is fed")
@click.option("--tokens", help="of a model: token ids instead: 3838,374,220")
@click.option(
    "--new-tokens", type=click.IntRange(min=1), default=8, show_default=True, help="of a model"
)
@click.option("--device", default="cpu", show_default=True, help="of a model: cpu, cuda or cuda:1")
@click.option("--allow-commands", is_flag=True, help="run the commands that a falsifier names")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
@click.option("-v", "--verbose", "is_full", is_flag=True, help="of runs: show every site")
def trace(  # noqa: PLR0917 - click passes them by name
    baseline: str,
    target: Path | None,
    expectations: Sequence[str],
    max_rate: float | None,
    oracle: str | None,
    subject: str | None,
    text: str | None,
    tokens: str | None,
    new_tokens: int,
    device: str,
    allow_commands: bool,  # noqa: FBT001
    style: str,
    is_full: bool,  # noqa: FBT001
) -> None:
    """Show by leg, layer and step how TARGET differs from BASELINE.

    \b
    trace BASELINE TARGET   two recordings: captures, or npz of caches after
                            prefill, after transfer and during decode
    trace TRACE.json        what another tool wrote: a trace, a batch's report
    trace A.json B.json     the reports of two batches, sample by sample
    trace CONTRACT::ID      runs the oracle and the subject of a falsifier
    trace MODEL --text TEXT --target '{transfer: {codec: int8}}'
                            runs a model in two ways: by engine transformers
                            and by engine disaggregated, unless they name others

    Of runs each leg is held against what it should have made of what it was given.

    Status 0: no leg is beyond what is allowed. 1: one is; the first is named. 2: it could not be
    told.
    """  # noqa: D301 - click's mark for lines that are left as they are
    settings = {"oracle": oracle, "subject": subject}
    is_contract = "::" in baseline
    is_model = any((*settings.values(), text, tokens))
    if is_model or is_contract:
        if target is not None or (is_model and is_contract):
            msg = f"it is not clear what is to be run of {baseline}"
            raise ContractError(msg, expected="CONTRACT::ID alone, or MODEL with --text")
        fed = {"text": text, "tokens": tokens, "new_tokens": new_tokens, "device": device}
        claim = _of_model(baseline, settings, fed) if is_model else _of_contract(baseline)
        # What is typed at the prompt needs no further permission.
        found = _run(claim, expectations, may_run_commands=allow_commands or is_model)
        told = _as_json(found) if style == "json" else "\n".join(_as_text(found, is_full=is_full))
        click.echo(told, nl=style != "json")
        sys.exit(found.standing.value)
    sys.exit(_trace_recordings(Path(baseline), target, expectations, max_rate, style))


def _trace_recordings(
    baseline: Path,
    target: Path | None,
    expectations: Sequence[str],
    max_rate: float | None,
    style: str,
) -> int:
    """Show what recordings, or the reports of other tools, say; return the status."""
    if target is None:
        rows, status, reason = _recorded(baseline, max_rate)
    elif are_batches(baseline, target):
        rows, (status, reason) = [], compared_batches(baseline, target, max_rate)
    else:
        rows, status, reason = _compared(baseline, target, expectations)
    leg = next((row["leg"] for row in rows if row["is_beyond"]), _WORDS.get(status, "undecided"))
    if style == "json":
        click.echo(canonical_text({"leg": leg, "reason": reason, "stages": rows}), nl=False)
    else:
        from pytest_falsify.report.legs import site_table

        click.echo("\n".join([f"leg: {leg} ({reason})", "", *site_table(rows)]))
    return status


def _of_contract(name: str) -> Claim:
    from pytest_falsify.cli.claims import claim_named

    return claim_named(name)


def _of_model(name: str, settings: Mapping[str, str | None], fed: Mapping[str, Any]) -> Claim:
    from pytest_falsify.cli.served import of_model

    return of_model(name, settings, **fed)


def _run(claim: Claim, expectations: Sequence[str], *, may_run_commands: bool) -> Traced:
    from pytest_falsify.cli.comparing import read_expectations
    from pytest_falsify.cli.served import as_kv, traced

    asked = as_kv(claim, read_expectations(expectations))
    return traced(asked, may_run_commands=may_run_commands)


def _as_json(found: Traced) -> str:
    rows = [{"input": name, **row} for name, own in found.rows.items() for row in own]
    return canonical_text({"leg": found.leg, "reason": "; ".join(found.reasons), "stages": rows})


def _as_text(found: Traced, *, is_full: bool) -> Iterator[str]:
    from pytest_falsify.report.legs import NOTE, leg_table, site_table

    yield f"leg: {found.leg}"
    for reason in found.reasons:
        yield from wrap(reason, WIDTH, initial_indent="  ", subsequent_indent="  ")
    for name, rows in found.rows.items():
        yield from ("", f"input `{name}`", *(site_table(rows) if is_full else leg_table(rows)))
    if not is_full:
        yield NOTE


def _recorded(path: Path, max_rate: float | None) -> tuple[list[dict[str, Any]], int, str]:
    """Return what a trace or a report tells, and what that comes to."""
    from pytest_falsify.cli.leg_rows import of_traced
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
    rows = [of_traced(each) for each in found]
    if any(row["is_beyond"] for row in rows):
        beyond = sum(row["is_beyond"] for row in rows)
        return rows, BEYOND, f"{beyond} of {_thresholds(len(rows), 'beyond')}"
    return rows, WITHIN, f"{_thresholds(len(rows), 'within')}, uncalibrated"


def _thresholds(count: int, where: str) -> str:
    one = f"comparison is {where} its threshold"
    return number_of(count, one, f"comparisons are {where} their thresholds")


def _rated(rate: Rate, limit: float | None) -> int:
    if limit is None:
        return BEYOND if rate.count else WITHIN
    return {True: WITHIN, False: BEYOND, None: UNDECIDED}[rate.is_within(limit)]


def _compared(
    baseline: Path, target: Path, expectations: Sequence[str]
) -> tuple[list[dict[str, Any]], int, str]:
    """Compare two recordings, and return what that comes to."""
    from pytest_falsify.captures.folder import read_captures
    from pytest_falsify.captures.unstated import agreed
    from pytest_falsify.checks.side_by_side import conclude
    from pytest_falsify.cli.comparing import read_expectations
    from pytest_falsify.cli.leg_rows import of_judged

    oracle, subject = agreed([read_captures(each) for each in (baseline, target)])
    expect = read_expectations(expectations)
    conclusion = conclude(subject, oracle, expect=expect)
    return list(of_judged(conclusion.judged)), conclusion.standing.value, conclusion.reason


COMMANDS = (trace,)
