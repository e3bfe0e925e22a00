"""Commands that carry ledgers elsewhere: git's helpers, signatures and attestations."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.ledger.intoto import statements
from pytest_falsify.ledger.signing import sign as sign_record
from pytest_falsify.ledger.store import read, read_text, update
from pytest_falsify.ledger.textconv import textconv as told
from pytest_falsify.ledger.three_way import merge_driver as merged_text

if TYPE_CHECKING:
    from pytest_falsify.ledger.block import FalsifierBlock, Ledger

CONFLICT = 1
_TEXT = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command("merge-driver")
@click.argument("base", type=_TEXT)
@click.argument("ours", type=_TEXT)
@click.argument("theirs", type=_TEXT)
@click.argument("name", required=False)
def merge_driver(base: Path, ours: Path, theirs: Path, name: str | None) -> None:
    """Merge two ledgers for git: `git config merge.falsify.driver "... %O %A %B %P"`."""
    try:
        before, mine, other = (read_text(each) or "" for each in (base, ours, theirs))
        merged = merged_text(before, mine, other, path=name)
    except LedgerError as error:
        click.echo(str(error), err=True)
        sys.exit(CONFLICT)
    ours.write_text(merged, encoding="utf-8")


@click.command()
@click.argument("ledger", type=_TEXT)
def textconv(ledger: Path) -> None:
    """Tell a ledger in few lines for git: `git config diff.falsify.textconv "..."`."""
    click.echo(told(ledger.read_text(encoding="utf-8", errors="replace")), nl=False)


@click.command()
@click.argument("ledger", type=_TEXT)
def export(ledger: Path) -> None:
    """Write a ledger as in-toto test-result statements, one JSON object a line."""
    found = read(ledger)
    for each in statements(found) if found else ():
        click.echo(json.dumps(each, sort_keys=True))


@click.command()
@click.argument("ledger", type=_TEXT)
@click.option(
    "--key", required=True, type=_TEXT, help="an SSH private key, or a public one in an agent"
)
@click.option("--signer", required=True, help="the name that the allowed-signers file gives it")
def sign(ledger: Path, key: Path, signer: str) -> None:
    """Sign every fresh confirmation in a ledger with an SSH key."""

    def change(old: Ledger | None) -> Ledger:
        if old is None:
            msg = "there is nothing to sign"
            raise LedgerError(msg, path=ledger)
        return replace(old, blocks={id_: block_signed(each) for id_, each in old.blocks.items()})

    def block_signed(block: FalsifierBlock) -> FalsifierBlock:
        signed = (
            sign_record(each, key=key, signer=signer)
            if each.outcome is Outcome.HELD and each.signature is None
            else each
            for each in block.evidence
        )
        return replace(block, evidence=tuple(signed))

    done = update(ledger, change)
    click.echo(f"{ledger}: {'signed' if done.is_changed else 'unchanged'}")


COMMANDS = (sign, export, merge_driver, textconv)
