"""What of run records, of several jobs or machines, may enter a ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.ledger.evidence import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_falsify.ledger.journal import Run
    from pytest_falsify.ledger.observation import Observation


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
