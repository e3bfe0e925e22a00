"""Run records of several jobs or machines, folded into the ledgers as if they were one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.ledger.merge import fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_falsify.ledger.block import EntryFacts, Ledger
    from pytest_falsify.ledger.journal import Run
    from pytest_falsify.ledger.observation import Observation


def merge_runs(
    runs: Sequence[Run],
    ledgers: Mapping[str, Ledger],
    entries: Mapping[str, Mapping[str, EntryFacts]],
) -> dict[str, Ledger]:
    """Return the ledgers of today's contracts after some runs, in whatever order they are given.

    A run that did not end can only lower a status: of what it saw, refutations count.

    Args:
        runs: the run records.
        ledgers: what is on file, by id of the contract.
        entries: today's entries, by id of the contract and of the falsifier.

    Raises:
        LedgerError: when an observation in a record is nonsense or was edited.
    """
    observed = tuple(usable(runs))
    return {
        contract: fold(ledgers.get(contract), contract, falsifiers, observed_of)
        for contract, falsifiers, observed_of in _by_contract(entries, observed)
    }


def usable(runs: Iterable[Run]) -> Iterator[Observation]:
    """Return what may enter a ledger: all that complete runs saw, and what any run refuted.

    Raises:
        LedgerError: when an observation in a record is nonsense or was edited.
    """
    for run in runs:
        for each in run.observations():
            is_refuted = each.evidence and each.evidence.outcome is Outcome.REFUTED
            if run.is_complete or is_refuted:
                yield each


def _by_contract(
    entries: Mapping[str, Mapping[str, EntryFacts]], observed: Sequence[Observation]
) -> Iterator[tuple[str, Mapping[str, EntryFacts], list[Observation]]]:
    seen: dict[str, list[Observation]] = {}
    for each in observed:
        seen.setdefault(each.contract, []).append(each)
    for contract, falsifiers in entries.items():
        yield contract, falsifiers, seen.get(contract, [])
