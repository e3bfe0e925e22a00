"""Records of sessions that were killed, and of those that ended long ago."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pytest_falsify._loading import entry_facts, load
from pytest_falsify.ledger.journal import read_run, recover_all
from pytest_falsify.ledger.merge import fold
from pytest_falsify.ledger.runs import usable
from pytest_falsify.ledger.store import ledger_path, update
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_falsify._places import Places
    from pytest_falsify.contracts.model import Contract
    from pytest_falsify.ledger.journal import Run

KEPT_RECORDS = 20


def recover_killed(places: Places) -> list[str]:
    """Give the records of killed sessions an end, after what they refuted went into the ledgers.

    A session that is killed in here leaves the records as they were, for the next one.

    Returns:
        What was recovered, in words.

    Raises:
        FalsifyError: when a record, a contract or a ledger cannot be read, or the disk refuses.
    """
    if not places.runs.is_dir():
        return []
    mended = recover_all(places.runs, use=partial(_fold_refutations, places=places))
    return [_words(each) for each in mended]


def prune_records(folder: Path, keep: int = KEPT_RECORDS) -> None:
    """Remove the oldest records of complete sessions, whose evidence is in the ledgers."""
    paths = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in [each for each in paths if read_run(each).is_complete][keep:]:
        path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)


def _fold_refutations(run: Run, *, places: Places) -> None:
    refuted = list(usable([run]))
    wanted = {each.contract for each in refuted}
    for contract in _contracts(run, places):
        if contract.id in wanted:
            change = partial(
                fold, contract=contract.id, entries=entry_facts(contract), observed=refuted
            )
            update(ledger_path(places.evidence, contract.id), change, locks=places.locks)


def _contracts(run: Run, places: Places) -> Iterator[Contract]:
    for name in run.header.get("files", ()):
        path = places.root / name
        contract = load(path) if path.exists() else None
        if contract is not None:
            yield contract


def _words(run: Run) -> str:
    refuted = sum(1 for _ in usable([run]))
    seen = len(run.observations())
    kept = number_of(refuted, "refutation of it is", "refutations of it are")
    return (
        f"the session {run.header.get('id')} was killed after {number_of(seen, 'observation')}; "
        f"{kept} in the ledger, the rest has to be run again"
    )
