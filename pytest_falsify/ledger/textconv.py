"""A ledger in few lines, for ``git config diff.<name>.textconv``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.canonical import canonical_bytes
from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.document import parse
from pytest_falsify.ledger.status import judge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_falsify.ledger.block import FalsifierBlock
    from pytest_falsify.ledger.evidence import Evidence


def textconv(text: str) -> str:
    """Return a ledger as a person would tell it: one line a status, one line a record.

    What is not a ledger, such as a file in the middle of a merge, is returned as it is.
    """
    try:
        ledger = parse(text, any_words=True)
    except LedgerError:
        return text
    lines = [f"contract {ledger.contract}"]
    for falsifier, block in sorted(ledger.blocks.items()):
        lines += _lines(falsifier, block)
    return "\n".join(lines) + "\n"


def _lines(falsifier: str, block: FalsifierBlock) -> Iterator[str]:
    status, because = judge(block)
    yield f"{falsifier}: {status.value}: {because}"
    for each in block.evidence:
        yield f"    {_line(each)}"


def _line(evidence: Evidence) -> str:
    words = [
        evidence.target,
        evidence.outcome.value,
        evidence.source.value,
        evidence.platform,
        canonical_bytes(evidence.observed).decode(),
    ]
    if evidence.retracted:
        words.append(f"retracted by {evidence.retracted.who}")
    return " | ".join(words)
