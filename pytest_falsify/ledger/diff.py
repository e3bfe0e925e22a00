"""What changed between two sets of ledgers, in the order in which a reviewer should look."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from pytest_falsify.ledger.block import trials
from pytest_falsify.ledger.status import Status, judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_falsify.ledger.block import FalsifierBlock, Ledger, Trial
    from pytest_falsify.ledger.evidence import Evidence


class Kind(Enum):
    """What became of a falsifier, in the order of a reviewer's interest."""

    REGRESSED = "regressed"
    STALE = "stale"
    ORPHANED = "orphaned"
    NEW = "new"
    PROMOTED = "promoted"
    UPDATED = "updated"


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberChange:
    """A number that was observed on both sides, or only on one, and is not the same."""

    target: str
    name: str
    before: float | str | None
    after: float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of one falsifier.

    Attributes:
        because: the reason in words, of the head where there is one.
        numbers: the observed numbers that changed.
    """

    kind: Kind
    contract: str
    falsifier: str
    before: Status | None
    after: Status | None
    because: str
    numbers: tuple[NumberChange, ...] = ()

    @property
    def is_alarming(self) -> bool:
        """Whether a reviewer must not miss it: something fell, or is refuted from the start."""
        return self.kind is Kind.REGRESSED or (
            self.kind is Kind.NEW and self.after is Status.FALSIFIED
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """All that changed; the rest is only counted."""

    changes: tuple[Change, ...] = ()
    unchanged: int = 0

    def of(self, kind: Kind) -> tuple[Change, ...]:
        """Return the changes of one kind."""
        return tuple(each for each in self.changes if each.kind is kind)

    def counts(self) -> dict[str, int]:
        """Return how many there are of each kind, and how many did not change."""
        found = Counter(each.kind for each in self.changes)
        return {kind.value: found[kind] for kind in Kind} | {"unchanged": self.unchanged}


def diff(bases: Mapping[str, Ledger], heads: Mapping[str, Ledger]) -> Difference:
    """Return what changed from the ledgers of a base to those of a head, by id of the contract."""
    changes: list[Change] = []
    unchanged = 0
    for contract in sorted({*bases, *heads}):
        before = bases[contract].blocks if contract in bases else {}
        after = heads[contract].blocks if contract in heads else {}
        for falsifier in sorted({*before, *after}):
            change = _change(contract, falsifier, before.get(falsifier), after.get(falsifier))
            if change is None:
                unchanged += 1
            else:
                changes.append(change)
    return Difference(changes=_in_order(changes), unchanged=unchanged)


def _in_order(changes: list[Change]) -> tuple[Change, ...]:
    kinds = {kind: number for number, kind in enumerate(Kind)}
    return tuple(sorted(changes, key=lambda each: (kinds[each.kind], not each.is_alarming)))


def _change(
    contract: str,
    falsifier: str,
    before: FalsifierBlock | None,
    after: FalsifierBlock | None,
) -> Change | None:
    if before == after:
        return None
    was, was_because = judge(before) if before else (None, "")
    status, because = judge(after) if after else (None, "")
    return Change(
        kind=_kind(was, status),
        contract=contract,
        falsifier=falsifier,
        before=was,
        after=status,
        because=because or f"the contract no longer has it; {was_because}",
        numbers=tuple(_numbers(before, after)) if before and after else (),
    )


def _kind(was: Status | None, status: Status | None) -> Kind:
    if status is None:
        return Kind.ORPHANED
    if was is None:
        return Kind.NEW
    if status.is_stale and not was.is_stale:
        return Kind.STALE
    if status.rank < was.rank:
        return Kind.REGRESSED
    return Kind.PROMOTED if status.rank > was.rank else Kind.UPDATED


def _numbers(before: FalsifierBlock, after: FalsifierBlock) -> Iterator[NumberChange]:
    olds = {each.target: _witness(each) for each in trials(before)}
    kept = {each.content for each in after.evidence}
    for trial in trials(after):
        old, new = olds.get(trial.target), _witness(trial)
        if old and new and not (old.content in kept and old.outcome is new.outcome):
            yield from _number_changes(trial.target, old, new)


def _witness(trial: Trial) -> Evidence | None:
    decided = (*trial.refuted, *trial.held, *trial.stale, *trial.inconclusive)
    return decided[0] if decided else None


def _number_changes(target: str, old: Evidence, new: Evidence) -> Iterator[NumberChange]:
    before, after = dict(_leaves(old.observed)), dict(_leaves(new.observed))
    for name in sorted({*before, *after}):
        one, other = before.get(name), after.get(name)
        if one != other:
            yield NumberChange(target=target, name=name, before=one, after=other)


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | str]]:
    for key, each in value.items():
        if isinstance(each, dict):
            yield from _leaves(each, f"{prefix}{key}.")
        elif isinstance(each, list):
            yield f"{prefix}{key}", ", ".join(map(str, each)) or "none"
        elif each is not None:
            yield f"{prefix}{key}", each
