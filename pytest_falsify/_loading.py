"""The door to contracts: the loader with the vocabulary of everything that is installed."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pytest_falsify.contracts.digest import entry_digest
from pytest_falsify.ledger.block import EntryFacts

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_falsify.checks.base import Check
    from pytest_falsify.contracts.model import Contract
    from pytest_falsify.contracts.vocabulary import Vocabulary


def load(path: Path) -> Contract | None:
    """Read a contract; None for YAML that is not one.

    Raises:
        ContractError: with the line, what was expected and how to mend it.
    """
    from pytest_falsify.contracts.load import load_contract

    return load_contract(path, vocabulary=vocabulary())


@cache
def vocabulary() -> Vocabulary:
    """Return the words that a contract may use here."""
    from pytest_falsify.checks.registry import check, check_kinds
    from pytest_falsify.contracts.vocabulary import Vocabulary
    from pytest_falsify.engines.registry import engine, engine_names
    from pytest_falsify.stages.vocabulary import canonical

    return Vocabulary(
        checks={kind: _schema_of(check(kind)) for kind in check_kinds()},
        engines={name: engine(name).options for name in engine_names()},
        stage=canonical,
    )


def _schema_of(check: Check) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": dict(check.parameters),
        "required": list(check.required),
        "additionalProperties": False,
    }
    one_of = getattr(check, "one_of", ())
    return {**schema, "anyOf": [{"required": [name]} for name in one_of]} if one_of else schema


def entry_facts(contract: Contract) -> dict[str, EntryFacts]:
    """Return what the ledger needs to know of a contract's entries."""
    return {
        each.id: EntryFacts(
            entry=entry_digest(contract, each),
            targets=tuple(target.name for target in contract.targets_of(each)),
            discharge=each.discharge,
            require=each.require or contract.require,
            path=str(contract.path),
            line=each.line,
        )
        for each in contract.falsifiers
    }
