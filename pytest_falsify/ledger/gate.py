"""The rule that lets CI pass: deny, unless everything that is demanded is on file.

It is monotonic: leaving out a ledger, a record or a waiver never turns a denial into a pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pytest_falsify.ledger.block import with_known
from pytest_falsify.ledger.status import Status, judge

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from pytest_falsify.errors import LedgerError
    from pytest_falsify.ledger.block import EntryFacts, FalsifierBlock, Ledger
    from pytest_falsify.ledger.evidence import Evidence
    from pytest_falsify.ledger.waivers import Waiver


class Rule(Enum):
    """Why the gate denies."""

    INCOMPLETE = "incomplete"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    VANISHED = "vanished"
    BELOW = "below"
    FELL = "fell"
    STALE = "stale"
    ABSENT = "absent"
    EXPIRED = "expired"

    @property
    def is_waivable(self) -> bool:
        """Whether a waiver can let it pass; what is broken or hidden cannot be waived."""
        return self in {Rule.BELOW, Rule.FELL, Rule.STALE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """One reason why the gate stays shut.

    Attributes:
        because: the reason, in words.
        remedy: what to do about it.
        path: the contract, ledger or waiver file that it is about.
    """

    rule: Rule
    because: str
    contract: str | None = None
    falsifier: str | None = None
    status: Status | None = None
    remedy: str | None = None
    path: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the gate decided.

    Attributes:
        denials: why it denies; none when it lets pass.
        waived: denials that a waiver lets pass, each with its waiver.
        unused: waivers that nothing needs.
    """

    denials: tuple[Denial, ...] = ()
    waived: tuple[tuple[Denial, Waiver], ...] = ()
    unused: tuple[Waiver, ...] = ()

    @property
    def is_allowed(self) -> bool:
        """Whether the gate lets pass."""
        return not self.denials


def gate(
    heads: Mapping[str, Ledger],
    entries: Mapping[str, Mapping[str, EntryFacts]],
    *,
    today: dt.date,
    bases: Mapping[str, Ledger] | None = None,
    waivers: Sequence[Waiver] = (),
    demanded: Status = Status.FUNCTIONAL,
    problems: Sequence[LedgerError] = (),
    unread: AbstractSet[str] = frozenset(),
    is_complete: bool = True,
) -> Decision:
    """Decide whether what is on file is what is demanded.

    Args:
        heads: the ledgers on file, by id of the contract.
        entries: today's entries, by id of the contract and of the falsifier.
        today: the day on which waivers are judged.
        bases: the ledgers at the base; None without a base.
        waivers: what is let pass for a while.
        demanded: the status of an entry that has no ``require:`` of its own.
        problems: what was wrong with ledgers that could not be read or are not canonical.
        unread: the contracts whose ledgers could not be read; nothing else is said of them.
        is_complete: whether the run that the gate follows reported everything.

    Raises:
        LedgerError: when a ``require:`` is not a status.
    """
    denials = [*_of_session(entries, problems, is_complete=is_complete)]
    bases = {id_: each for id_, each in (bases or {}).items() if id_ not in unread}
    known = {id_: each for id_, each in entries.items() if id_ in heads or id_ not in unread}
    for case in _cases(heads, known, bases, demanded):
        denials.extend(case.denials())
    denials.extend(_vanished(heads, bases))
    denials.extend(_expired(each) for each in waivers if each.is_expired(today))
    return _waive(denials, [each for each in waivers if not each.is_expired(today)])


def _of_session(
    entries: Mapping[str, Mapping[str, EntryFacts]],
    problems: Sequence[LedgerError],
    *,
    is_complete: bool,
) -> Iterator[Denial]:
    if not is_complete:
        yield Denial(
            rule=Rule.INCOMPLETE,
            because="the run did not report everything that it began",
            remedy="run it again",
        )
    for each in problems:
        path = None if each.path is None else str(each.path)
        yield Denial(
            rule=Rule.UNREADABLE, because=each.what, remedy=each.remedy, path=path, line=each.line
        )
    if not any(entries.values()):
        yield Denial(
            rule=Rule.EMPTY,
            because="there is no falsifier to judge",
            remedy="name a folder that holds contracts",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One falsifier before the gate: its entry today, and its block at the base and at the head."""

    contract: str
    falsifier: str
    facts: EntryFacts
    required: Status
    before: FalsifierBlock | None
    after: FalsifierBlock | None

    def denials(self) -> Iterator[Denial]:
        if self.after is None:
            yield self._denial(Rule.ABSENT, None, "is not in the ledger")
            return
        status, because = judge(with_known(self.after, self.facts.known))
        if self.after.entry != self.facts.entry:
            words = f"was changed after the ledger said {status.value}"
            yield self._denial(Rule.ABSENT, status, words)
        if status.is_stale:
            yield self._denial(Rule.STALE, status, f"is STALE: {because}")
            return
        if status.rank < self.required.rank:
            words = f"is {status.value}, {self.required.value} is required: {because}"
            yield self._denial(Rule.BELOW, status, words)
        was = judge(self.before)[0] if self.before else status
        if status.rank < was.rank:
            words = f"fell from {was.value} to {status.value}: {because}"
            yield self._denial(Rule.FELL, status, words)

    def _denial(self, rule: Rule, status: Status | None, words: str) -> Denial:
        return Denial(
            rule=rule,
            because=f"{self.falsifier} {words}",
            contract=self.contract,
            falsifier=self.falsifier,
            status=status,
            remedy=f"pytest-falsify why {self.falsifier}",
            path=self.facts.path,
            line=self.facts.line,
        )


def _cases(
    heads: Mapping[str, Ledger],
    entries: Mapping[str, Mapping[str, EntryFacts]],
    bases: Mapping[str, Ledger],
    demanded: Status,
) -> Iterator[_Case]:
    for contract, falsifiers in sorted(entries.items()):
        head, base = heads.get(contract), bases.get(contract)
        for falsifier, facts in sorted(falsifiers.items()):
            yield _Case(
                contract=contract,
                falsifier=falsifier,
                facts=facts,
                required=Status.parse(facts.require) if facts.require else demanded,
                before=base.blocks.get(falsifier) if base else None,
                after=head.blocks.get(falsifier) if head else None,
            )


def _vanished(heads: Mapping[str, Ledger], bases: Mapping[str, Ledger]) -> Iterator[Denial]:
    for contract, base in sorted(bases.items()):
        head = heads.get(contract)
        for falsifier, before in sorted(base.blocks.items()):
            after = head.blocks.get(falsifier) if head else None
            for each in before.evidence:
                if before.counts_against(each) and not _is_accounted_for(each, after):
                    yield Denial(
                        rule=Rule.VANISHED,
                        because=f"a refutation of {falsifier} on {each.target} vanished",
                        contract=contract,
                        falsifier=falsifier,
                        remedy=f"restore {each.id}, or retract it with pytest-falsify retract",
                    )


def _is_accounted_for(refutation: Evidence, after: FalsifierBlock | None) -> bool:
    """Whether a refutation is still on file, or was made with something else than today's."""
    if after is None:
        return False
    if any(each.id == refutation.id for each in after.evidence):
        return True
    today = after.today.get(refutation.target)
    if today is None:
        return False
    return after.entry != refutation.entry or today != refutation.digests


def _expired(waiver: Waiver) -> Denial:
    return Denial(
        rule=Rule.EXPIRED,
        because=f"the waiver of {waiver.who} for {waiver.falsifier} ended on {waiver.until}",
        contract=waiver.contract,
        falsifier=waiver.falsifier,
        remedy="remove it, or have somebody answer for a later day",
        path=waiver.path,
        line=waiver.line,
    )


def _waive(denials: Sequence[Denial], waivers: Sequence[Waiver]) -> Decision:
    by_falsifier = {(each.contract, each.falsifier): each for each in waivers}
    left, waived = [], []
    for each in denials:
        waiver = by_falsifier.get((each.contract or "", each.falsifier or ""))
        if waiver and _is_waived(each, waiver):
            waived.append((each, waiver))
        else:
            left.append(each)
    used = {id(waiver) for _, waiver in waived}
    unused = tuple(each for each in waivers if id(each) not in used)
    return Decision(denials=tuple(left), waived=tuple(waived), unused=unused)


def _is_waived(denial: Denial, waiver: Waiver) -> bool:
    if denial.status is None or not denial.rule.is_waivable:
        return False
    return waiver.covers(denial.contract or "", denial.falsifier or "", denial.status)
