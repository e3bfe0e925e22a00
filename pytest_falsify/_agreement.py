"""What is on file beside what the evidence of a session says, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.ledger.status import Status, judge

if TYPE_CHECKING:
    from pytest_falsify.ledger.block import FalsifierBlock, Ledger


def dropped(before: Ledger | None, after: Ledger) -> list[str]:
    """Return, in words, the refuted falsifiers that left the contract, and with them the ledger."""
    gone = before.blocks.items() if before else ()
    return [
        f"{id_} was FALSIFIED and left the contract; `pytest-falsify gate --base` denies that"
        for id_, block in gone
        if id_ not in after.blocks and judge(block)[0] is Status.FALSIFIED
    ]


def contradictions(before: Ledger, after: Ledger) -> list[str]:
    """Return, in words, where what is on file is not what the evidence says today."""
    gone = [
        f"{id_} is no longer in the contract" for id_ in before.blocks if id_ not in after.blocks
    ]
    found = [_contradiction(id_, before.blocks.get(id_), new) for id_, new in after.blocks.items()]
    return [*gone, *(each for each in found if each)]


def _contradiction(id_: str, old: FalsifierBlock | None, new: FalsifierBlock) -> str | None:
    if old is None:
        return f"{id_} is not on file"
    (was, _), (now, because) = judge(old), judge(new)
    if now.rank < was.rank or (now is Status.FALSIFIED and new != old):
        return f"{id_} is {now.value}, on file {was.value}: {because}"
    if now.rank == was.rank and (old.entry, old.today) != (new.entry, new.today):
        return f"{id_} is on file for something that has changed since"
    return None


def improvements(before: Ledger, after: Ledger) -> list[str]:
    """Return, in words, what the evidence of today supports beyond what is on file."""
    found = []
    for id_, new in after.blocks.items():
        old, (now, because) = before.blocks.get(id_), judge(new)
        if old is not None and now.rank > judge(old)[0].rank:
            found.append(f"{id_} could be {now.value}: {because}")
    return found
