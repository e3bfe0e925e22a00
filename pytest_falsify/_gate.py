"""The gate at the end of a session: the ledger room's rule, applied to what the session folded."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_falsify._loading import entry_facts
from pytest_falsify.errors import REMEDY, LedgerError
from pytest_falsify.ledger.gate import gate
from pytest_falsify.ledger.signing import wrong_signatures
from pytest_falsify.ledger.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_falsify.contracts.model import Contract
    from pytest_falsify.ledger.block import EntryFacts, Ledger
    from pytest_falsify.ledger.gate import Decision, Denial
    from pytest_falsify.ledger.waivers import Waiver

AS_REQUIRED = "require"
SIGNERS = "--allowed-signers FILE, or the ini `falsify_allowed_signers`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What ``--falsify-gate`` asks for.

    Attributes:
        demanded: a status, which holds for all, or ``require`` for what each contract says.
        waivers: what people let pass for a while.
        allowed_signers: ssh-keygen's file of those who may sign evidence.
    """

    demanded: str
    waivers: Sequence[Waiver] = ()
    allowed_signers: Path | None = None

    def decide(
        self, folded: Sequence[tuple[Contract, Ledger]], *, is_complete: bool
    ) -> tuple[list[str], list[str]]:
        """Return the denials and what a person should know, in words.

        Args:
            folded: the contracts of the session and what the evidence says of each now.
            is_complete: whether the session reported all that it began.
        """
        entries = {contract.id: self._facts(contract) for contract, _ in folded}
        heads = {contract.id: ledger for contract, ledger in folded}
        decision = gate(
            heads,
            entries,
            today=dt.datetime.now(tz=dt.UTC).date(),
            waivers=self.waivers,
            demanded=Status.FUNCTIONAL if self._is_per_entry else Status.parse(self.demanded),
            problems=tuple(signature_problems(heads, self.allowed_signers)),
            is_complete=is_complete,
        )
        return [_words(each) for each in decision.denials], list(_notes(decision, entries))

    @property
    def _is_per_entry(self) -> bool:
        return self.demanded == AS_REQUIRED

    def _facts(self, contract: Contract) -> dict[str, EntryFacts]:
        facts = entry_facts(contract)
        if self._is_per_entry:
            return facts
        return {id_: replace(each, require=None) for id_, each in facts.items()}


def signature_problems(
    ledgers: Mapping[str, Ledger], allowed_signers: Path | None
) -> Iterator[LedgerError]:
    """Yield what is wrong with signatures; where some are demanded, somebody says who may sign."""
    if allowed_signers is not None:
        yield from wrong_signatures(ledgers, allowed_signers)
        return
    for ledger in ledgers.values():
        for falsifier, block in ledger.blocks.items():
            if block.discharge.signed:
                msg = f"{falsifier} demands signatures, and nobody says who may sign"
                yield LedgerError(msg, remedy=f"give {SIGNERS}")


def _words(denial: Denial) -> str:
    error = LedgerError("", path=denial.path, line=denial.line)
    place = f" ({str(error).removesuffix(': ')})" if denial.path else ""
    remedy = f"{REMEDY}{denial.remedy}" if denial.remedy else ""
    return f"gate: {denial.because}{place}{remedy}"


def _notes(decision: Decision, entries: Mapping[str, object]) -> Iterator[str]:
    for denial, waiver in decision.waived:
        yield f"waived until {waiver.until} by {waiver.who} ({waiver.why}): {denial.because}"
    for unused in decision.unused:
        # A session may be about some contracts only; the others' waivers are not its business.
        if unused.contract in entries:
            yield f"nothing needs the waiver of {unused.falsifier} by {unused.who}; remove it"
