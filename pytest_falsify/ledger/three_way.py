"""A three-way merge of ledgers, for git: what one side changed, and what both did."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.block import FalsifierBlock, Ledger
from pytest_falsify.ledger.digests import Digests
from pytest_falsify.ledger.document import parse, to_text
from pytest_falsify.ledger.merge import join_digests, merge_blocks, merge_evidence, prune

if TYPE_CHECKING:
    from collections.abc import Mapping

_T = TypeVar("_T")


def merge_three(base: Ledger, ours: Ledger, theirs: Ledger) -> Ledger:
    """Return the ledger with the changes of both sides.

    Where both sides changed the same digest it is disputed, and the next run settles it. A record
    that one side dropped and the other did not touch is dropped.

    Raises:
        LedgerError: when the ledgers belong to different contracts.
    """
    if len({base.contract, ours.contract, theirs.contract}) > 1:
        msg = f"ledgers of {ours.contract} and {theirs.contract} cannot be merged"
        raise LedgerError(msg, expected="ledgers of the same contract")
    blocks = {}
    for id_ in sorted({*ours.blocks, *theirs.blocks}):
        merged = _block(base.blocks.get(id_), ours.blocks.get(id_), theirs.blocks.get(id_))
        if merged is not None:
            blocks[id_] = merged
    return Ledger(contract=ours.contract, blocks=blocks)


def merge_driver(base: str, ours: str, theirs: str, path: str | None = None) -> str:
    """Return the text of the merged ledger, for ``git config merge.<name>.driver``.

    Args:
        base: the text of the common ancestor; empty when there was none.
        ours: the text of our side.
        theirs: the text of their side.
        path: the path in the working tree, for messages.

    Raises:
        LedgerError: when a side is not a ledger; git then has to leave the conflict to a person.
    """
    one, other = (parse(text, path, any_words=True) for text in (ours, theirs))
    ancestor = parse(base, path, any_words=True) if base else Ledger(contract=one.contract)
    return to_text(merge_three(ancestor, one, other))


def _block(
    base: FalsifierBlock | None, ours: FalsifierBlock | None, theirs: FalsifierBlock | None
) -> FalsifierBlock | None:
    if theirs in (ours, base):
        return ours
    if base == ours:
        return theirs
    if ours is None or theirs is None:
        return ours or theirs  # one side dropped what the other changed: the next run decides
    if base is None:
        return prune(merge_blocks(ours, theirs))
    return prune(_merge(base, ours, theirs))


def _merge(base: FalsifierBlock, ours: FalsifierBlock, theirs: FalsifierBlock) -> FalsifierBlock:
    both = merge_blocks(ours, theirs)
    olds = {each.id: each for each in base.evidence}
    kept = {each.id for each in ours.evidence} & {each.id for each in theirs.evidence}
    evidence = merge_evidence(ours.evidence, theirs.evidence)
    return FalsifierBlock(
        entry=_changed(base.entry, ours.entry, theirs.entry, both.entry),
        today=_today(base.today, ours.today, theirs.today),
        evidence=tuple(each for each in evidence if each.id in kept or each.id not in olds),
        discharge=_changed(base.discharge, ours.discharge, theirs.discharge, both.discharge),
    )


def _today(
    base: Mapping[str, Digests], ours: Mapping[str, Digests], theirs: Mapping[str, Digests]
) -> dict[str, Digests]:
    none = Digests()
    today = {}
    for name in sorted({*ours, *theirs}):
        one, other = ours.get(name, none), theirs.get(name, none)
        today[name] = _changed(base.get(name, none), one, other, join_digests(one, other))
    return today


def _changed(base: _T, ours: _T, theirs: _T, both: _T) -> _T:
    """The side that changed; what both say together when both did."""
    if base == ours:
        return theirs
    return ours if base == theirs else both
