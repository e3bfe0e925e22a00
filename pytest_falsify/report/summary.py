"""The summary at the end of a run: how every falsifier stands, totals and ledgers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_falsify.ledger.status import Status
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_falsify.contracts.model import Contract

Line = tuple[str, dict[str, bool]]
MAX_LINES = 200
FEWEST = 3
"""So many falsifiers that stand alike share a line; two are as easily read apart."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Falsifiers of one contract that follow each other and are told in one line."""

    contract: str
    ids: tuple[str, ...]
    status: Status
    because: str

    @property
    def name(self) -> str:
        """The falsifier's id, or the first with the number of the last: ``FALSIFY-X-001..012``."""
        first, last = self.ids[0], self.ids[-1]
        return first if len(self.ids) == 1 else f"{first}..{_numbered(last)[1]}"


def summary_lines(
    contracts: Sequence[FoldedContract], *, is_full: bool, limit: int | None = MAX_LINES
) -> Iterator[Line]:
    """Yield the lines of the summary with their markup.

    Args:
        contracts: what the run made of each contract.
        is_full: give every falsifier a line of its own; else those that are numbered one after the
            other, and stand alike for the same reason, share one, and at most ``limit`` lines are
            shown, the worst first.
        limit: how many lines of falsifiers are shown at most; None for all.
    """
    groups = [list(_groups(each, is_full=is_full)) for each in contracts]
    found = [each for some in groups for each in some]
    shown = found if is_full else sorted(found, key=lambda each: each.status.rank)[:limit]
    width = max((len(each.name) for each in shown), default=0)
    kept = set(shown)
    for each, some in zip(contracts, groups, strict=True):
        mine = [group for group in some if group in kept]
        if mine:
            yield f"{each.contract.id}  ledger: {each.ledger_name}, {each.became}", {"bold": True}
        for group in mine:
            text = f"  {group.name:<{width}}  {group.status.value:<10}  {group.because}"
            yield text, MARKUP[group.status]
    if left_out := sum(len(each.ids) for each in found if each not in kept):
        yield f"  ... {left_out} more with -v", {}
    yield _totals(found), {"bold": True}


def _groups(folded: FoldedContract, *, is_full: bool) -> Iterator[_Group]:
    """Yield the lines of one contract, in its own order."""
    rows = [(each.id, *folded.status(each.id)) for each in folded.contract.falsifiers]
    at = 0
    while at < len(rows):
        _, status, because = rows[at]
        ids = [id_ for id_, *_ in rows[at : at + (1 if is_full else _alike(rows, at))]]
        yield _Group(contract=folded.contract.id, ids=tuple(ids), status=status, because=because)
        at += len(ids)


def _alike(rows: Sequence[tuple[str, Status, str]], at: int) -> int:
    """Return how many rows from one on share a line; a refutation always has its own."""
    end = at + 1
    while end < len(rows) and rows[end][1:] == rows[at][1:]:
        if not _follows(rows[end - 1][0], rows[end][0]):
            break
        end += 1
    return end - at if end - at >= FEWEST and rows[at][1] is not Status.FALSIFIED else 1


def _follows(one: str, other: str) -> bool:
    """Whether an id has the next number after another's."""
    (before, first), (after, second) = _numbered(one), _numbered(other)
    is_alike = before == after and len(first) == len(second) > 0
    return is_alike and int(first) + 1 == int(second)


def _numbered(id_: str) -> tuple[str, str]:
    """Return an id without the number it ends in, and the number; empty when there is none."""
    before = id_.rstrip("0123456789")
    return before, id_[len(before) :]


def _totals(groups: Sequence[_Group]) -> str:
    counts: Counter[Status] = Counter()
    for each in groups:
        counts[each.status] += len(each.ids)
    totals = ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])
    return f"{number_of(counts.total(), 'falsifier')}: {totals or 'none'}"
