"""What all commands share: errors without tracebacks, and the contracts that they are about."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_falsify._loading import entry_facts, load
from pytest_falsify.checks.declared import Declarations
from pytest_falsify.errors import ContractError, FalsifyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_falsify.contracts.model import Contract
    from pytest_falsify.ledger.block import EntryFacts

USAGE = 2
SUFFIXES = {".yaml", ".yml"}


def in_project(path: Path) -> Path:
    """Return a relative path as it is seen from the project, from whatever folder below it.

    It is looked for in this folder and those above, not beyond the repository, as git would.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / path).exists():
            return path if folder == here else folder / path
        if (folder / ".git").exists():
            return path if folder == here else folder / path
    return path


def default_in_project(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Look for what was not named in the folders above too: click's callback."""
    name = parameter.name or ""
    if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
        return value
    return tuple(map(in_project, value)) if isinstance(value, tuple) else in_project(value)


evidence_option = click.option(
    "--evidence",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("evidence"),
    callback=default_in_project,
    show_default=True,
    help="the folder of the evidence ledgers",
)
contracts_option = click.option(
    "--contracts",
    type=click.Path(path_type=Path),
    default=(Path("contracts"),),
    callback=default_in_project,
    multiple=True,
    show_default="contracts",
    help="a contract or a folder of contracts; may be given more than once",
)


class Group(click.Group):
    """Shows a mistake of the user's as it is, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except FalsifyError as error:
            click.echo(str(error), err=True)
            sys.exit(USAGE)


def contract_files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the YAML files below some paths, in order.

    Raises:
        ContractError: when a path is not there.
    """
    for path in paths:
        if not path.exists():
            msg = f"there is no {path}"
            raise ContractError(msg, expected="contracts, or folders that hold some")
        if path.is_dir():
            yield from sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES)
        else:
            yield path


def contracts_of(paths: Sequence[Path]) -> dict[str, Contract]:
    """Return the contracts below some paths, by id.

    Raises:
        ContractError: when one is broken, or two share an id.
    """
    found: dict[str, Contract] = {}
    for each in contract_files(paths):
        contract = load(each)
        if contract is None:
            continue
        if contract.id in found:
            msg = f"{contract.id} is also the id of {found[contract.id].path}"
            raise ContractError(msg, path=each, expected="an id of its own")
        found[contract.id] = contract
    return found


def facts_of(contracts: Mapping[str, Contract]) -> dict[str, dict[str, EntryFacts]]:
    """Return what ledgers need to know of contracts, by id of the contract and the falsifier."""
    declarations = Declarations()
    return {id_: entry_facts(each, declarations) for id_, each in contracts.items()}
