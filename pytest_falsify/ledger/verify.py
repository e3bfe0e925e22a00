"""Recompute every status, digest and canonical byte of the ledgers on file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.document import many_ledgers, parse, to_text
from pytest_falsify.ledger.store import ledger_path, read_text

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_falsify.ledger.block import Ledger


def verify(path: Path) -> tuple[Ledger | None, tuple[LedgerError, ...]]:
    """Return the ledger in a file and everything that is wrong with it.

    The ledger is None when it cannot be read at all; a file that is not there is wrong too.
    """
    try:
        text = read_text(path)
        if text is None:
            msg = "there is no ledger"
            return None, (LedgerError(msg, path=path, remedy=_UPDATE),)
        ledger = parse(text, str(path))
    except LedgerError as error:
        return None, (error,)
    return ledger, (*_misplaced(path, ledger), *_misspelled(path, ledger, text))


def verify_folder(folder: Path) -> tuple[dict[str, Ledger], tuple[LedgerError, ...]]:
    """Return the readable ledgers of a folder by contract, and everything that is wrong there."""
    ledgers: dict[str, Ledger] = {}
    problems: list[LedgerError] = []
    with many_ledgers():
        for path in sorted(folder.glob("*.json")):
            ledger, wrong = verify(path)
            problems.extend(wrong)
            if ledger is not None:
                ledgers[ledger.contract] = ledger
    return ledgers, tuple(problems)


_UPDATE = "run: pytest --falsify --falsify-ledger=update"


def _misplaced(path: Path, ledger: Ledger) -> tuple[LedgerError, ...]:
    if path == ledger_path(path.parent, ledger.contract):
        return ()
    msg = f"the ledger of {ledger.contract} is in a file of another name"
    return (LedgerError(msg, path=path, line=1, expected=f"{ledger.contract}.json"),)


def _misspelled(path: Path, ledger: Ledger, text: str) -> tuple[LedgerError, ...]:
    right = to_text(ledger)
    if text == right:
        return ()
    msg = "the ledger is not spelled as it would be written"
    line = _first_difference(text, right)
    return (LedgerError(msg, path=path, line=line, expected="canonical JSON", remedy=_UPDATE),)


def _first_difference(text: str, right: str) -> int:
    lines, wanted = text.split("\n"), right.split("\n")
    pairs = enumerate(zip(lines, wanted, strict=False), start=1)
    return next((number for number, (one, other) in pairs if one != other), len(wanted))
