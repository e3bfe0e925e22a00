"""The ledger as values: what is on file for one falsifier, and for a whole contract."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from pytest_falsify.ledger.digests import DISPUTED, Digests
from pytest_falsify.ledger.discharge import NO_DEMANDS, Discharge
from pytest_falsify.ledger.evidence import Evidence, Outcome

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class FalsifierBlock:
    """All that a status is computed from.

    Attributes:
        entry: digest of the contract's entry today.
        today: for each target the digests that were last seen there.
        evidence: what is on file; it is put in order of target and id.
        discharge: what the entry demands before it counts as DISCHARGED.
    """

    entry: str
    today: Mapping[str, Digests] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    discharge: Discharge = NO_DEMANDS

    def __post_init__(self) -> None:
        object.__setattr__(self, "evidence", tuple(sorted(self.evidence, key=_PLACE)))

    @property
    def likeness(self) -> Hashable:
        """All that a status and its words are computed from: blocks of the same one are alike.

        Names of falsifiers, ids of records and most numbers play no part, so the falsifiers of one
        contract mostly have few among them.
        """
        records = tuple(_likeness(each, self.entry) for each in self.evidence)
        return self.entry == DISPUTED, tuple(self.today.items()), self.discharge, records

    def is_fresh(self, evidence: Evidence) -> bool:
        """Return whether a record was made with what is there today.

        A record that decided nothing may not have known every digest; those it knew must fit.
        """
        today = self.today.get(evidence.target)
        if today is None or evidence.entry != self.entry:
            return False
        if evidence.digests is today or evidence.digests == today:
            return True
        return not evidence.outcome.is_decisive and _fits(evidence, today, old=(None,))

    def counts_against(self, evidence: Evidence) -> bool:
        """Return whether a record refutes the claim today."""
        return evidence.retracted is None and self.is_about_today(evidence)

    def is_about_today(self, evidence: Evidence) -> bool:
        """Return whether a record is a refutation, retracted or not, of what is there today.

        Where a digest is disputed, or the refutation did not know it, the refutation counts: in
        doubt, nothing is hidden.
        """
        if evidence.outcome is not Outcome.REFUTED:
            return False
        today = self.today.get(evidence.target)
        if today is None or self.entry not in {evidence.entry, DISPUTED}:
            return False
        return _fits(evidence, today, old=(None,), new=(DISPUTED,))

    def changed_since(self, evidence: Evidence) -> tuple[str, ...]:
        """Return the names of the digests that differ today, ``entry`` first."""
        today = self.today.get(evidence.target, Digests())
        pairs = zip(evidence.digests.items(), today.items(), strict=True)
        changed = tuple(name for (name, old), (_, new) in pairs if old != new)
        return changed if evidence.entry == self.entry else ("entry", *changed)


_PLACE = attrgetter("target", "id")


def _likeness(evidence: Evidence, entry: str) -> Hashable:
    return (
        evidence.ground,
        None if evidence.entry == entry else evidence.entry,
        evidence.retracted is None,
        evidence.signature is None,
        None if evidence.has_caught_all else repr(evidence.fault_counts),
        evidence.reasons[:1],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What is on file for one contract."""

    contract: str
    blocks: Mapping[str, FalsifierBlock] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFacts:
    """What the ledger needs to know of an entry of today's contract.

    Attributes:
        entry: digest of the entry's meaning.
        targets: the names of the targets it is tried on.
        discharge: the entry's own ``discharge:``.
        require: the status that the gate demands, as it is written; None for the gate's default.
        known: for each target the digests of today that can be told without trying it.
        path: where the contract is, for annotations.
        line: where the entry begins in it.
    """

    entry: str
    targets: tuple[str, ...] = ()
    discharge: Mapping[str, Any] = field(default_factory=dict)
    require: str | None = None
    known: Mapping[str, Digests] = field(default_factory=dict)
    path: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What the evidence of one target says today, each part in order of id.

    Attributes:
        refuted: refutations that count.
        retracted: refutations that were declared wrong.
        held: fresh confirmations.
        inconclusive: fresh tries that did not decide.
        blocked: fresh tries that found something absent.
        stale: decisive records that were made with something else than what is there today, and
            that nothing fresh supersedes: a confirmation supersedes all, a refutation, retracted
            or not, supersedes other refutations.
    """

    target: str
    refuted: tuple[Evidence, ...] = ()
    retracted: tuple[Evidence, ...] = ()
    held: tuple[Evidence, ...] = ()
    inconclusive: tuple[Evidence, ...] = ()
    blocked: tuple[Evidence, ...] = ()
    stale: tuple[Evidence, ...] = ()

    @property
    def is_decided(self) -> bool:
        """Whether something fresh speaks for or against the claim."""
        return bool(self.held or self.refuted)


def with_known(block: FalsifierBlock, known: Mapping[str, Digests]) -> FalsifierBlock:
    """Return the block with the digests of today that can be told without trying a target.

    So a change that is seen where a target cannot be tried makes its evidence stale all the same.
    What was never tried has no digests of today.
    """
    today = {
        name: known[name].over(digests) if name in known else digests
        for name, digests in block.today.items()
    }
    return block if today == block.today else replace(block, today=today)


def trials(block: FalsifierBlock) -> tuple[Trial, ...]:
    """Return what is on file sorted by target, in order of their names."""
    by_target: dict[str, list[Evidence]] = {}
    for each in block.evidence:
        by_target.setdefault(each.target, []).append(each)
    return tuple(_trial(block, name, by_target[name]) for name in sorted(by_target))


def _fits(
    evidence: Evidence,
    today: Digests,
    *,
    old: tuple[str | None, ...],
    new: tuple[str | None, ...] = (),
) -> bool:
    """Whether every digest of a record is today's, or excused on the old or the new side."""
    return all(
        was == now or was in old or now in new
        for was, now in zip(evidence.digests.values(), today.values(), strict=True)
    )


def _trial(block: FalsifierBlock, target: str, evidence: Sequence[Evidence]) -> Trial:
    parts: dict[str, list[Evidence]] = {}
    for each in evidence:
        part = _part(block, each)
        if part is not None:
            parts.setdefault(part, []).append(each)
    _supersede(block, parts)
    return Trial(target=target, **{name: tuple(each) for name, each in parts.items()})


def _supersede(block: FalsifierBlock, parts: dict[str, list[Evidence]]) -> None:
    """Leave out what something fresh supersedes."""
    if not ("stale" in parts or "retracted" in parts):
        return
    tried = [*parts.get("refuted", ()), *parts.get("retracted", ())]
    if "held" not in parts and not any(block.is_fresh(each) for each in tried):
        return
    stale = () if "held" in parts else parts.get("stale", ())
    parts["stale"] = [each for each in stale if each.outcome is Outcome.HELD]
    parts["retracted"] = [each for each in parts.get("retracted", ()) if block.is_about_today(each)]


def _part(block: FalsifierBlock, evidence: Evidence) -> str | None:
    if evidence.retracted:
        return "retracted"
    if block.is_about_today(evidence):
        return "refuted"
    if block.is_fresh(evidence):
        return evidence.outcome.value
    return "stale" if evidence.outcome.is_decisive else None
