"""Evidence is a set: how sets are united, pruned to their witnesses, and fed by a run.

``merge`` is commutative, associative and idempotent, and ``prune`` commutes with it as long as the
digests of today are the same. Where two ledgers disagree about today's digests the merged one says
``disputed``: confirmations are then stale, refutations still count, and the next run settles it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from itertools import chain
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.block import FalsifierBlock, Ledger, Trial, trials, with_known
from pytest_falsify.ledger.digests import DISPUTED, Digests
from pytest_falsify.ledger.discharge import Discharge
from pytest_falsify.ledger.evidence import Evidence, Outcome, Retraction, Source
from pytest_falsify.ledger.status import judge, spokesman

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_falsify.ledger.block import EntryFacts
    from pytest_falsify.ledger.observation import Observation


def merge(one: Ledger, other: Ledger) -> Ledger:
    """Return what both ledgers of a contract say together.

    Raises:
        LedgerError: when they belong to different contracts.
    """
    if one.contract != other.contract:
        msg = f"a ledger of {other.contract} cannot be merged into one of {one.contract}"
        raise LedgerError(msg, expected="two ledgers of the same contract")
    blocks = dict(one.blocks)
    for id_, block in other.blocks.items():
        blocks[id_] = merge_blocks(blocks[id_], block) if id_ in blocks else block
    return Ledger(contract=one.contract, blocks=blocks)


def merge_blocks(one: FalsifierBlock, other: FalsifierBlock) -> FalsifierBlock:
    """Return what two blocks of the same falsifier say together."""
    if one == other:
        return one
    return FalsifierBlock(
        entry=one.entry if one.entry == other.entry else DISPUTED,
        today=_join_today(one.today, other.today),
        evidence=merge_evidence(one.evidence, other.evidence),
        discharge=one.discharge.join(other.discharge),
    )


def merge_evidence(*sets: Iterable[Evidence]) -> tuple[Evidence, ...]:
    """Return the union of sets of evidence, one record for each id.

    Of two records with the same id a retracted one stays before one that is not, a signed one
    before an unsigned one, and then the one with the smaller content digest.
    """
    chosen: dict[str, Evidence] = {}
    for each in chain.from_iterable(sets):
        known = chosen.setdefault(each.id, each)
        if known is not each:
            chosen[each.id] = min(known, each, key=_preference)
    return tuple(chosen[id_] for id_ in sorted(chosen))


def prune(block: FalsifierBlock) -> FalsifierBlock:
    """Return the block with only the witnesses of its status and every fresh refutation.

    Its status, and the words that say why, stay the same.
    """
    kept = [each for trial in trials(block) for each in _witnesses(block, trial)]
    return replace(block, evidence=tuple(kept))


def fold(
    ledger: Ledger | None,
    contract: str,
    entries: Mapping[str, EntryFacts],
    observed: Iterable[Observation],
) -> Ledger:
    """Return the ledger after a run.

    Blocks of entries that the contract no longer has are dropped; new entries get an empty block. A
    block whose status, reason and digests stay what they were, and that is not newly refuted, is
    the block that was on file.

    Args:
        ledger: what was on file; None when there was no file.
        contract: the id of the contract.
        entries: today's entries of the contract, by id of the falsifier.
        observed: what the run saw; observations of other contracts and entries are passed over.
    """
    old = ledger.blocks if ledger else {}
    seen: dict[str, list[Observation]] = {}
    for each in observed:
        if each.contract == contract and each.falsifier in entries:
            seen.setdefault(each.falsifier, []).append(each)
    return Ledger(
        contract=contract,
        blocks={
            id_: _fold_block(old.get(id_), facts, seen.get(id_, ()))
            for id_, facts in sorted(entries.items())
        },
    )


def retract(ledger: Ledger, falsifier: str, evidence: str, *, who: str, why: str) -> Ledger:
    """Return the ledger with one refutation declared wrong.

    The retraction holds until the same refutation is observed again.

    Args:
        ledger: what is on file.
        falsifier: the id of the falsifier.
        evidence: the id of the refutation, or the beginning of one.
        who: who answers for it.
        why: what was wrong with the refutation.

    Raises:
        LedgerError: when not exactly one refutation has that id, or who or why is missing.
    """
    if not (who.strip() and why.strip()):
        msg = "a retraction needs somebody who answers for it and a reason"
        raise LedgerError(msg, remedy="name who retracts it and why")
    block = ledger.blocks.get(falsifier, FalsifierBlock(entry=DISPUTED))
    found = [
        each
        for each in block.evidence
        if each.outcome is Outcome.REFUTED
        and (each.id.startswith(evidence) or each.id.startswith(f"sha256:{evidence}"))
    ]
    if len(found) != 1:
        msg = f"{len(found)} refutations of {falsifier} have an id that begins with {evidence!r}"
        raise LedgerError(msg, expected="exactly one", remedy="pytest-falsify why shows the ids")
    retracted = found[0].marked(retracted=Retraction(who=who, why=why))
    others = (each for each in block.evidence if each is not found[0])
    changed = replace(block, evidence=(*others, retracted))
    return replace(ledger, blocks={**ledger.blocks, falsifier: prune(changed)})


def _join_today(one: Mapping[str, Digests], other: Mapping[str, Digests]) -> dict[str, Digests]:
    names = sorted({*one, *other})
    unknown = Digests()
    return {name: join_digests(one.get(name, unknown), other.get(name, unknown)) for name in names}


def join_digests(one: Digests, other: Digests) -> Digests:
    """Return what two sides say together: an unknown digest gives way, two known are disputed."""
    if one is other or one == other:
        return one
    return Digests.of(map(_join_digest, one.values(), other.values()))


def _join_digest(one: str | None, other: str | None) -> str | None:
    if one is None or other is None or one == other:
        return one if other is None else other
    return DISPUTED


def _preference(evidence: Evidence) -> tuple[object, ...]:
    retracted, signature = evidence.retracted, evidence.signature
    return (
        retracted is None,
        signature is None,
        evidence.content,
        (retracted.who, retracted.why) if retracted else (),
        (signature.signer, signature.armour) if signature else (),
    )


def _witnesses(block: FalsifierBlock, trial: Trial) -> list[Evidence]:
    kept = [*trial.refuted, *trial.retracted, *_best(trial.held, block.discharge)]
    stale: dict[object, list[Evidence]] = {}
    for each in trial.stale:
        stale.setdefault((each.entry, each.digests, each.outcome), []).append(each)
    for group in stale.values():
        # A refutation may be retracted on another branch: one cannot stand for the others.
        is_refuted = group[0].outcome is Outcome.REFUTED
        kept += group if is_refuted else _best(group, block.discharge)
    return kept if trial.held else [*kept, *(trial.inconclusive or trial.blocked)[:1]]


def _best(held: Sequence[Evidence], discharge: Discharge) -> Sequence[Evidence]:
    accepted = [each for each in held if discharge.accepts(each)]
    if accepted:
        return discharge.witnesses(accepted)
    return [spokesman(held)] if held else ()


def _fold_block(
    old: FalsifierBlock | None, facts: EntryFacts, observed: Sequence[Observation]
) -> FalsifierBlock:
    discharge = Discharge.from_mapping(facts.discharge)
    if old is None:
        on_file = FalsifierBlock(entry=facts.entry, discharge=discharge)
    else:
        on_file = _of_today(old, facts, discharge)
    seen = _observe(on_file, observed, facts.known) if observed else on_file
    changed = with_known(seen, facts.known)
    if old is not None and _says_the_same(old, changed):
        return old
    return prune(changed)


def _of_today(old: FalsifierBlock, facts: EntryFacts, discharge: Discharge) -> FalsifierBlock:
    """What is on file under today's entry, without the targets that it no longer has.

    A bound Python test names itself as its target, which no contract lists.
    """
    kept = tuple(
        each for each in old.evidence if each.target in facts.targets or each.source is Source.BOUND
    )
    known = {*facts.targets, *(each.target for each in kept)}
    today = {name: digests for name, digests in old.today.items() if name in known}
    return _with(old, entry=facts.entry, today=today, evidence=kept, discharge=discharge)


def _observe(
    on_file: FalsifierBlock, observed: Sequence[Observation], known: Mapping[str, Digests]
) -> FalsifierBlock:
    targets: dict[str, list[Observation]] = {}
    for each in observed:
        targets.setdefault(each.target, []).append(each)
    today = dict(on_file.today)
    for target, group in sorted(targets.items()):
        today[target] = _seen_today(on_file.today.get(target), group)
    block = with_known(_with(on_file, today=today), known)
    new = merge_evidence(each.evidence for each in observed if each.evidence)
    return _with(block, evidence=_admit(block, new))


def _with(block: FalsifierBlock, **parts: Any) -> FalsifierBlock:
    """The block with these parts; itself where it has them already, as most do after a run."""
    changed = {name: each for name, each in parts.items() if getattr(block, name) != each}
    return replace(block, **changed) if changed else block


def _seen_today(old: Digests | None, observed: Sequence[Observation]) -> Digests:
    """Today's digests of one target; a run that decided nothing may leave some as they were."""
    seen = reduce(join_digests, (each.today for each in observed))
    if old is None or any(each.evidence and _knows_all(each.evidence) for each in observed):
        return seen
    return seen.over(old)


def _knows_all(evidence: Evidence) -> bool:
    return evidence.outcome is not Outcome.BLOCKED


def _admit(block: FalsifierBlock, new: Sequence[Evidence]) -> tuple[Evidence, ...]:
    """The evidence on file with what is new; of the same id the record on file stays.

    Only a refutation that was retracted gives way to being observed again.
    """
    known = {each.id: each for each in block.evidence}
    news = [each for each in new if each.id not in known or known[each.id].retracted]
    if not news:
        return block.evidence
    tried = {trial.target: trial for trial in trials(block)}
    for each in news:
        if not _is_idle(tried.get(each.target), each.outcome):
            known[each.id] = each
    return tuple(known.values())


def _is_idle(trial: Trial | None, outcome: Outcome) -> bool:
    """Whether a try that decided nothing tells less than what is on file for its target."""
    if trial is None or outcome.is_decisive:
        return False
    if trial.is_decided or trial.inconclusive:
        return True
    return outcome is Outcome.BLOCKED and bool(trial.blocked)


def _says_the_same(old: FalsifierBlock, new: FalsifierBlock) -> bool:
    if old is new or old == new:
        return True
    same_ground = (old.entry, old.today, old.discharge) == (new.entry, new.today, new.discharge)
    return same_ground and _refutations(old) == _refutations(new) and judge(old) == judge(new)


def _refutations(block: FalsifierBlock) -> set[str]:
    return {each.id for each in block.evidence if block.counts_against(each)}
