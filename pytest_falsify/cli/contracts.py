"""Commands about contracts: lint, show, new, schema."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_falsify._items import named_tests
from pytest_falsify._loading import entry_facts, load, vocabulary
from pytest_falsify.cli.shared import (
    contract_files,
    contracts_option,
    evidence_option,
    in_project,
)
from pytest_falsify.contracts.lint.baseline import beyond, read_baseline, write_baseline
from pytest_falsify.contracts.lint.render import as_github, as_json, as_text
from pytest_falsify.contracts.lint.run import LintReport
from pytest_falsify.contracts.lint.run import lint as linted
from pytest_falsify.contracts.lint.sources import Sources
from pytest_falsify.contracts.schemas import full_schema
from pytest_falsify.contracts.show import find
from pytest_falsify.contracts.show import show as shown
from pytest_falsify.contracts.starter import StarterCapture, starter
from pytest_falsify.errors import ContractError, FalsifyError
from pytest_falsify.ledger.evidence import Source
from pytest_falsify.ledger.merge import fold
from pytest_falsify.ledger.status import Status, judge
from pytest_falsify.ledger.store import ledger_path, read
from pytest_falsify.words import number_are

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_falsify.contracts.model import Contract, Falsifier
    from pytest_falsify.ledger.block import Ledger

FOUND = 1
TABLE = ("tool", "pytest-falsify", "lint")
RENDER = {"text": as_text, "json": as_json, "github": as_github}


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--format", "style", type=click.Choice(list(RENDER)), default="text")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path, dir_okay=False),
    help="findings that were there before; `baseline` in [tool.pytest-falsify.lint] by default",
)
@click.option("--write-baseline", is_flag=True, help="accept what is found now, and end")
@evidence_option
def lint(
    paths: Sequence[Path],
    style: str,
    baseline: Path | None,
    write_baseline: bool,  # noqa: FBT001 - click passes it by name
    evidence: Path,
) -> None:
    """Find what is wrong with the contracts below PATHS (contracts/) without running any.

    Status 1 when an error is found. Severities stand in [tool.pytest-falsify.lint] of
    pyproject.toml, by rule: error, warning, note or off; docs/lint/ has a page for each rule.
    """
    folder = in_project(Path("contracts"))
    root = folder.absolute().parent
    settings = _settings(root / "pyproject.toml")
    file = baseline or _named_baseline(settings, root)
    files = list(contract_files(paths or (folder,)))
    report = linted(
        files,
        vocabulary=vocabulary(),
        sources=Sources(root),
        settings=settings,
        statuses=_statuses(files, evidence),
    )
    if write_baseline:
        target = file or root / "falsify-lint-baseline.json"
        target.write_text(_accept(report, root), encoding="utf-8")
        click.echo(f"{target.name}: {number_are(len(report.findings), 'finding')} accepted")
        return
    report, idle = _beyond(report, file, root)
    click.echo(RENDER[style](report, root), nl=False)
    if idle and style == "text":
        click.echo(f"{number_are(idle, 'accepted finding')} gone: write the baseline anew")
    sys.exit(FOUND if report.has_errors else 0)


def _settings(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"not TOML: {error}"
        raise FalsifyError(msg, path=path) from error
    for key in TABLE:
        table = table.get(key, {})
    return dict(table)


def _named_baseline(settings: dict[str, str], root: Path) -> Path | None:
    name = settings.pop("baseline", None)
    return root / name if name else None


def _accept(report: LintReport, root: Path) -> str:
    return write_baseline(report.findings, root)


def _beyond(report: LintReport, file: Path | None, root: Path) -> tuple[LintReport, int]:
    if file is None:
        return report, 0
    if not file.exists():
        msg = "there is no baseline"
        raise FalsifyError(msg, path=file, remedy="pytest-falsify lint --write-baseline")
    accepted = read_baseline(file.read_text(encoding="utf-8"), file)
    findings, idle = beyond(report.findings, accepted, root)
    return replace(report, findings=findings), idle


def _statuses(files: Sequence[Path], evidence: Path) -> dict[str, str]:
    """Return what the ledgers support, by falsifier; a contract that is broken has nothing."""
    found: dict[str, str] = {}
    for path in files:
        try:
            contract = load(path)
            blocks = _blocks(contract, evidence) if contract else {}
        except FalsifyError:  # lint names what is wrong with it; a broken ledger supports nothing
            continue
        found |= {id_: status.value for id_, (status, _) in blocks.items()}
    return found


def _blocks(contract: Contract, evidence: Path) -> Mapping[str, tuple[Status, str]]:
    ledger = _ledger(contract, evidence)
    return {id_: judge(block) for id_, block in ledger.blocks.items()}


def _ledger(contract: Contract, evidence: Path) -> Ledger:
    on_file = read(ledger_path(evidence, contract.id))
    return fold(on_file, contract.id, entry_facts(contract), ())


@click.command()
@click.argument("falsifier")
@contracts_option
@evidence_option
def show(falsifier: str, contracts: Sequence[Path], evidence: Path) -> None:
    """Show FALSIFIER: its claim, targets, check, what is bound to it, its status and why."""
    loaded = [each for path in contract_files(contracts) if (each := load(path))]
    found = find(loaded, falsifier)
    if not found:
        msg = f"no contract has a falsifier {falsifier}"
        raise ContractError(msg, expected="an id that `pytest-falsify status` shows")
    for path, (contract, entry) in found.items():
        click.echo(_shown(contract, entry, f"{path}:{entry.line}", evidence), nl=False)


def _shown(contract: Contract, entry: Falsifier, place: str, evidence: Path) -> str:
    block = _ledger(contract, evidence).blocks[entry.id]
    status, because = judge(block)
    bound = {each.target for each in block.evidence if each.source is Source.BOUND}
    return shown(
        contract,
        entry,
        place=place,
        status=status.value,
        because=because,
        bound_tests=sorted({*bound, *named_tests(entry)}),
    )


@click.command()
@click.argument("model")
@click.option("--subject", multiple=True, metavar="KEY=VALUE", help="options of the subject")
@click.option("--oracle", multiple=True, metavar="KEY=VALUE", help="options of the oracle")
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("contracts/first.yaml"),
    show_default=True,
)
def new(model: str, subject: Sequence[str], oracle: Sequence[str], device: str, out: Path) -> None:
    """Write a commented starter contract for MODEL: a folder, or a name in a model hub.

    A folder is looked for where the contract is going to be, and then here. For example:
    pytest-falsify new models/mine --subject dtype=bfloat16
    """
    if out.exists():
        msg = "there is a file already"
        raise FalsifyError(msg, path=out, remedy="name another one with --out")
    text = starter(
        _from_contract(model, out.parent),
        subject=_capture(subject or ("attention=sdpa",)),
        oracle=_capture(oracle),
        file=out.as_posix(),
        device=device,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    load(out)
    click.echo(f"{out}: try it with pytest --falsify {out}")


def _from_contract(model: str, folder: Path) -> str:
    """Return a model that was named from here as a contract in a folder names it."""
    if (folder / model).exists() or not Path(model).exists():
        return model
    path = Path(os.path.relpath(model, folder)).as_posix()
    return path if path.startswith(".") else f"./{path}"


def _capture(options: Sequence[str]) -> StarterCapture:
    values: dict[str, Any] = {"dtype": "float32", "attention": "eager"}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            msg = f"`{option}` is not an option of a capture"
            raise FalsifyError(msg, expected="KEY=VALUE, for example dtype=bfloat16")
        values[key] = int(value) if value.isdigit() else value
    engine = str(values.pop("engine", "transformers"))
    return StarterCapture(engine=engine, options=values)


@click.command()
def schema() -> None:
    """Print the JSON Schema of contracts, with the check kinds and engines installed here."""
    click.echo(json.dumps(full_schema(vocabulary()), indent=2))


COMMANDS = (lint, show, new, schema)
