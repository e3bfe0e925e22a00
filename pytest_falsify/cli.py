"""The command line: ``pytest-falsify``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_falsify._loading import entry_facts, load
from pytest_falsify.errors import ContractError, FalsifyError
from pytest_falsify.ledger.merge import fold
from pytest_falsify.ledger.status import judge
from pytest_falsify.ledger.store import ledger_path, read
from pytest_falsify.report.summary import summary_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_falsify.contracts.model import Contract
    from pytest_falsify.ledger.block import Ledger
    from pytest_falsify.ledger.status import Status

USAGE = 2


class _Group(click.Group):
    """Shows a mistake of the user's as it is, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FalsifyError as error:
            click.echo(str(error), err=True)
            sys.exit(USAGE)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pytest-falsify")
def main() -> None:
    """Look at contracts and at the evidence for them. `pytest --falsify` makes the evidence."""


_EVIDENCE = click.option(
    "--evidence",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("evidence"),
    show_default=True,
    help="the folder of the evidence ledgers",
)
_PATHS = click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True))


@main.command()
@_PATHS
@_EVIDENCE
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
def status(paths: Sequence[Path], evidence: Path, style: str) -> None:
    """Show what the evidence on file supports for every falsifier of PATHS (contracts/)."""
    found = [OnFile(each, evidence) for each in _contracts(paths or (Path("contracts"),))]
    if style == "json":
        click.echo(json.dumps({each.contract.id: each.to_json() for each in found}, indent=2))
        return
    for text, markup in summary_lines(found, is_full=True):
        click.secho(text, bold=markup.get("bold", False), fg=_colour(markup))


class OnFile:
    """A contract with what its ledger says today, without running anything."""

    became = "on file"

    def __init__(self, contract: Contract, folder: Path) -> None:
        path = ledger_path(folder, contract.id)
        self.contract = contract
        self.ledger_name = str(path)
        self._ledger: Ledger = fold(read(path), contract.id, entry_facts(contract), ())

    def status(self, falsifier: str) -> tuple[Status, str]:
        """Return a falsifier's status and why."""
        return judge(self._ledger.blocks[falsifier])

    def to_json(self) -> dict[str, dict[str, str]]:
        """Return status and reason by falsifier."""
        answers = {each.id: self.status(each.id) for each in self.contract.falsifiers}
        return {id_: {"status": one.value, "because": why} for id_, (one, why) in answers.items()}


def _contracts(paths: Sequence[Path]) -> Iterator[Contract]:
    for path in paths:
        if not path.exists():
            msg = f"there is no {path}"
            raise ContractError(msg, expected="contracts, or folders that hold some")
        files = sorted((*path.rglob("*.yaml"), *path.rglob("*.yml"))) if path.is_dir() else [path]
        for each in files:
            contract = load(each)
            if contract is not None:
                yield contract


def _colour(markup: dict[str, bool]) -> str | None:
    return next((name for name in ("red", "yellow", "green") if markup.get(name)), None)
