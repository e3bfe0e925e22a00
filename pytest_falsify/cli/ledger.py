"""Commands about evidence: what is on file, why, what changed, and whether it is enough."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_falsify._gate import signature_problems
from pytest_falsify._places import WAIVERS
from pytest_falsify.cli.shared import (
    USAGE,
    contracts_of,
    contracts_option,
    default_in_project,
    evidence_option,
    facts_of,
    in_project,
)
from pytest_falsify.contracts.model import Level
from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger import gate as gates
from pytest_falsify.ledger import waivers as waiver_files
from pytest_falsify.ledger.diff import diff as difference_of
from pytest_falsify.ledger.git import history, ledgers_at
from pytest_falsify.ledger.journal import read_run, recover
from pytest_falsify.ledger.merge import fold
from pytest_falsify.ledger.merge import retract as retract_in
from pytest_falsify.ledger.runs import usable
from pytest_falsify.ledger.signing import wrong_signatures
from pytest_falsify.ledger.status import Status, judge
from pytest_falsify.ledger.store import ledger_path, read, update
from pytest_falsify.ledger.verify import verify_folder
from pytest_falsify.ledger.why import why as explained
from pytest_falsify.report import ledger_diff
from pytest_falsify.report.summary import summary_lines
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_falsify.contracts.model import Contract
    from pytest_falsify.errors import FalsifyError
    from pytest_falsify.ledger.block import EntryFacts, Ledger
    from pytest_falsify.ledger.journal import Run

signers_option = click.option(
    "--allowed-signers",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="check every signature against this file of ssh-keygen's",
)

DENIED = 1
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


class OnFile:
    """A contract with what its ledger says today, without running anything."""

    def __init__(self, contract: Contract, facts: Mapping[str, EntryFacts], folder: Path) -> None:
        path = ledger_path(folder, contract.id)
        found = read(path)
        self.contract = contract
        self.ledger_name = str(path)
        self.became = "on file" if found else "not there yet"
        self.ledger: Ledger = fold(found, contract.id, facts, ())

    def status(self, falsifier: str) -> tuple[Status, str]:
        """Return a falsifier's status and why."""
        return judge(self.ledger.blocks[falsifier])

    def to_json(self) -> dict[str, dict[str, str]]:
        """Return status and reason by falsifier."""
        answers = {each.id: self.status(each.id) for each in self.contract.falsifiers}
        return {id_: {"status": one.value, "because": why} for id_, (one, why) in answers.items()}


def _on_file(paths: Sequence[Path], folder: Path) -> tuple[list[OnFile], list[LedgerError]]:
    """Return the contracts with what is on file, and the errors of ledgers that cannot be read."""
    contracts = contracts_of(paths)
    facts = facts_of(contracts)
    found, broken = [], []
    for id_, each in contracts.items():
        try:
            found.append(OnFile(each, facts[id_], folder))
        except LedgerError as error:
            broken.append(error)
    return found, broken


def _end_with(broken: Sequence[LedgerError]) -> None:
    """Tell what could not be read after everything else; it is never a success."""
    for each in broken:
        click.echo(str(each), err=True)
    if broken:
        sys.exit(USAGE)


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@evidence_option
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
@click.option("-v", "--verbose", "is_full", is_flag=True, help="give every falsifier its own line")
def status(paths: Sequence[Path], evidence: Path, style: str, *, is_full: bool) -> None:
    """Show what the evidence on file supports for every falsifier of PATHS (contracts/)."""
    found, broken = _on_file(paths or (in_project(Path("contracts")),), evidence)
    if style == "json":
        click.echo(json.dumps({each.contract.id: each.to_json() for each in found}, indent=2))
    else:
        for text, markup in summary_lines(found, is_full=is_full, limit=None):
            click.secho(text, bold=markup.get("bold", False), fg=_colour(markup))
    _end_with(broken)


@click.command()
@click.argument("falsifier")
@contracts_option
@evidence_option
def why(falsifier: str, contracts: Sequence[Path], evidence: Path) -> None:
    """Explain the status of FALSIFIER from its evidence, and say what would raise it."""
    on_file, broken = _on_file(contracts, evidence)
    found = [each for each in on_file if falsifier in each.ledger.blocks]
    if not found and not broken:
        msg = f"no contract has a falsifier {falsifier}"
        raise LedgerError(msg, expected="an id that `pytest-falsify status` shows")
    for each in found:
        entry = each.contract.falsifier(falsifier)
        targets = each.contract.targets_of(entry) if entry else ()
        live = tuple(one.name for one in targets if one.level is Level.LIVE)
        block, names = each.ledger.blocks[falsifier], tuple(one.name for one in targets)
        click.echo(explained(falsifier, block, targets=names, live=live), nl=False)
    _end_with(broken)


@click.command()
@click.argument("base")
@click.argument("head", required=False)
@evidence_option
@contracts_option
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "markdown", "json", "github"]),
    default="text",
    help="github also appends the Markdown to $GITHUB_STEP_SUMMARY",
)
def diff(
    base: str, head: str | None, evidence: Path, contracts: Sequence[Path], style: str
) -> None:
    """Show what changed in the ledgers from commit BASE to HEAD (the working tree).

    Regressions first, then what went stale, lost its contract, is new, or was promoted.
    """
    heads, broken = (ledgers_at(head, evidence), ()) if head else verify_folder(evidence)
    unread = _unread(broken, heads)
    bases = ledgers_at(base, evidence)
    # Of a ledger that cannot be read nothing can be said, least of all that its claims are gone.
    found = difference_of({id_: each for id_, each in bases.items() if id_ not in unread}, heads)
    if style == "github":
        _append_step_summary(ledger_diff.to_markdown(found))
        click.echo(ledger_diff.to_github(found, _places(contracts)), nl=False)
    else:
        render = {"text": ledger_diff.to_text, "markdown": ledger_diff.to_markdown}
        click.echo(render.get(style, ledger_diff.to_json)(found), nl=False)
    _end_with(broken)


def _unread(broken: Sequence[LedgerError], read: Mapping[str, Ledger]) -> frozenset[str]:
    """The contracts whose ledgers could not be read, as their files are named."""
    names = {Path(each.path).stem for each in broken if each.path is not None}
    return frozenset(names - read.keys())


def _places(paths: Sequence[Path]) -> dict[tuple[str, str], tuple[str, int | None]]:
    return {
        (id_, falsifier): (facts.path or "", facts.line)
        for id_, entries in facts_of(contracts_of(paths)).items()
        for falsifier, facts in entries.items()
    }


def _append_step_summary(text: str) -> None:
    path = os.environ.get(STEP_SUMMARY)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)


def _waiver_file(context: click.Context, parameter: click.Parameter, value: Path) -> Path:
    """Refuse a file that was named and is not there; without one of the usual name none is."""
    found: Path = default_in_project(context, parameter, value)
    is_named = context.get_parameter_source("waiver_file") is not click.core.ParameterSource.DEFAULT
    if is_named and not found.is_file():
        msg = f"there is no {found}"
        raise LedgerError(msg, expected="the file of waivers that --waivers names")
    return found


@click.command()
@click.option("--base", help="a commit that nothing may fall below, for example origin/main")
@click.option(
    "--waivers",
    "waiver_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path(WAIVERS),
    callback=_waiver_file,
    show_default=True,
    help="who lets what pass, why, and until when",
)
@click.option(
    "--require",
    type=click.Choice(["PARTIAL", "FUNCTIONAL", "DISCHARGED"]),
    default="FUNCTIONAL",
    show_default=True,
    help="the status of an entry that demands none itself",
)
@signers_option
@contracts_option
@evidence_option
def gate(  # noqa: PLR0917 - click passes them by name
    base: str | None,
    waiver_file: Path,
    require: str,
    allowed_signers: Path | None,
    contracts: Sequence[Path],
    evidence: Path,
) -> None:
    """Let pass only what is on file as it is demanded; status 1 and the reasons otherwise."""
    heads, broken = verify_folder(evidence)
    problems = (*broken, *signature_problems(heads, allowed_signers))
    decision = gates.gate(
        heads,
        facts_of(contracts_of(contracts)),
        today=dt.datetime.now(tz=dt.UTC).date(),
        bases=ledgers_at(base, evidence) if base else None,
        waivers=waiver_files.read(waiver_file),
        demanded=Status.parse(require),
        problems=problems,
        unread=_unread(broken, heads),
    )
    for denial, waiver in decision.waived:
        click.echo(f"waived until {waiver.until} by {waiver.who}: {denial.because}")
    for unused in decision.unused:
        click.echo(f"note: nothing needs the waiver of {unused.falsifier}; remove it")
    for denial in decision.denials:
        click.secho(f"denied: {_words(denial)}", fg="red")
    if not decision.is_allowed:
        click.echo(f"the gate is shut: {number_of(len(decision.denials), 'reason')}")
        sys.exit(DENIED)
    click.secho("the gate is open", fg="green")


def _words(denial: gates.Denial) -> str:
    text = str(LedgerError(denial.because, path=denial.path, line=denial.line))
    return f"{text}; to mend: {denial.remedy}" if denial.remedy else text


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@contracts_option
@evidence_option
def merge(runs: Sequence[Path], contracts: Sequence[Path], evidence: Path) -> None:
    """Fold the run records RUNS (files, or folders of them) into the ledgers.

    Of a session that was killed or lost something only the refutations count.
    """
    records = [read_run(each) for each in _run_files(runs)]
    for each in records:
        if not each.is_complete:
            click.echo(f"{each.path}: the session was not complete; only its refutations count")
    observed = tuple(usable(records))
    broken = []
    for id_, facts in facts_of(contracts_of(contracts)).items():
        mine = [each for each in observed if each.contract == id_]
        path = ledger_path(evidence, id_)
        try:
            done = update(path, partial(fold, contract=id_, entries=facts, observed=mine))
        except LedgerError as error:
            broken.append(error)
            continue
        became = "updated" if done.is_changed else "unchanged"
        click.echo(f"{path}: {became}, {number_of(len(mine), 'record')}")
    _end_with(broken)  # and the records stay as they are, to be merged again
    for each in records:
        _end(each)


def _end(run: Run) -> None:
    """Give the record of a killed session an end: its refutations are in the ledgers now."""
    if run.trailer is None:
        with suppress(OSError):  # it may lie where nothing can be written
            recover(run.path)


def _run_files(paths: Sequence[Path]) -> list[Path]:
    files = {file for each in paths for file in (each.glob("*.jsonl") if each.is_dir() else [each])}
    if not files:
        msg = "there is no run record here"
        raise LedgerError(msg, expected="*.jsonl as `pytest --falsify` leaves in .falsify/runs")
    return sorted(files)


@click.command()
@evidence_option
@signers_option
def verify(evidence: Path, allowed_signers: Path | None) -> None:
    """Recompute every status, digest and byte of the ledgers; status 1 for any edit by hand."""
    ledgers, problems = verify_folder(evidence)
    if not ledgers and not problems:
        msg = "there is no ledger to verify"
        raise LedgerError(msg, path=evidence, expected="the folder that --evidence names")
    found: list[FalsifyError] = list(problems)
    if allowed_signers:
        found += wrong_signatures(ledgers, allowed_signers)
    for each in found:
        click.secho(str(each), fg="red")
    words = f"{number_of(len(ledgers), 'ledger')} verified, {number_of(len(found), 'problem')}"
    click.echo(words)
    sys.exit(DENIED if found else 0)


@click.command()
@click.argument("falsifier")
@evidence_option
def log(falsifier: str, evidence: Path) -> None:
    """Walk git's history of FALSIFIER, the newest moment first."""
    holders = [
        path
        for path in sorted(evidence.glob("*.json"))
        if falsifier in getattr(read(path), "blocks", {})
    ]
    if not holders:
        msg = f"no ledger has a falsifier {falsifier}"
        raise LedgerError(msg, expected="an id that `pytest-falsify status` shows")
    for path in holders:
        for each in history(path, falsifier):
            standing = each.status.value if each.status else "-"
            click.echo(f"{each.commit[:10]} {each.date} {standing:<10} {each.subject}")
            click.echo(f"{'':>22}{each.because} ({each.author})")


@click.command()
@click.argument("falsifier")
@click.argument("record")
@click.option("--who", required=True, help="who answers for it")
@click.option("--why", "reason", required=True, help="what was wrong with the refutation")
@contracts_option
@evidence_option
def retract(  # noqa: PLR0917 - click passes them by name
    falsifier: str,
    record: str,
    who: str,
    reason: str,
    contracts: Sequence[Path],
    evidence: Path,
) -> None:
    """Declare the refutation RECORD (an id that `why` shows) of FALSIFIER to have been wrong."""
    for id_, facts in facts_of(contracts_of(contracts)).items():
        if falsifier in facts:
            path = ledger_path(evidence, id_)
            change = partial(
                _retracted, path=path, falsifier=falsifier, record=record, who=who, reason=reason
            )
            done = update(path, change)
            click.echo(f"{path}: {judge(done.after.blocks[falsifier])[1]}")
            return
    msg = f"no contract has a falsifier {falsifier}"
    raise LedgerError(msg, expected="an id that `pytest-falsify status` shows")


def _retracted(
    old: Ledger | None, *, path: Path, falsifier: str, record: str, who: str, reason: str
) -> Ledger:
    if old is None:
        msg = "there is no ledger"
        raise LedgerError(msg, path=path, remedy="run pytest --falsify first")
    return retract_in(old, falsifier, record, who=who, why=reason)


def _colour(markup: Mapping[str, bool]) -> str | None:
    return next((name for name in ("red", "yellow", "green") if markup.get(name)), None)


COMMANDS = (
    status, why, diff, gate, merge, verify, log, retract,
)  # fmt: skip
