"""The summary at the end of a run: a line per falsifier, totals, ledgers, and what is denied."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from pytest_falsify.ledger.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_falsify.contracts.model import Contract

Line = tuple[str, dict[str, bool]]
MAX_LINES = 200
MARKUP: dict[Status, dict[str, bool]] = {
    Status.FALSIFIED: {"red": True, "bold": True},
    Status.STALE: {"yellow": True},
    Status.BLOCKED: {"yellow": True},
    Status.UNTRIED: {"yellow": True},
    Status.PARTIAL: {"green": True},
    Status.FUNCTIONAL: {"green": True},
    Status.DISCHARGED: {"green": True, "bold": True},
}


class FoldedContract(Protocol):
    """What the summary needs to know of one contract after a run."""

    @property
    def contract(self) -> Contract:
        """The contract."""

    @property
    def ledger_name(self) -> str:
        """The ledger's file as a person would name it."""

    @property
    def became(self) -> str:
        """What happened to the ledger, in words."""

    def status(self, falsifier: str) -> tuple[Status, str]:
        """Return a falsifier's status and why."""


def summary_lines(
    contracts: Sequence[FoldedContract], *, is_full: bool, limit: int = MAX_LINES
) -> Iterator[Line]:
    """Yield the lines of the summary with their markup, the worst status first.

    Args:
        contracts: what the run made of each contract.
        is_full: show every falsifier; else at most ``limit``, and how many are left out.
        limit: how many falsifiers are shown at most.
    """
    rows = [
        (each, falsifier.id, *each.status(falsifier.id))
        for each in contracts
        for falsifier in each.contract.falsifiers
    ]
    width = max((len(row[1]) for row in rows), default=0)
    shown = rows if is_full else sorted(rows, key=lambda row: row[2].rank)[:limit]
    for each in contracts:
        mine = [row for row in rows if row[0] is each and row in shown]
        if mine:
            yield f"{each.contract.id}  ledger: {each.ledger_name}, {each.became}", {"bold": True}
        for _, id_, status, because in mine:
            yield f"  {id_:<{width}}  {status.value:<10}  {because}", MARKUP[status]
    if len(shown) < len(rows):
        yield f"  ... {len(rows) - len(shown)} more with -v", {}
    counts = Counter(row[2] for row in rows)
    totals = ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])
    noun = "falsifier" if len(rows) == 1 else "falsifiers"
    yield f"{len(rows)} {noun}: {totals or 'none'}", {"bold": True}
