"""The door to contracts: the loader with the vocabulary of everything that is installed."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pytest_falsify.contracts.digest import entry_digest
from pytest_falsify.errors import ContractError
from pytest_falsify.ledger.block import EntryFacts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

    from pytest_falsify.checks.base import Check
    from pytest_falsify.checks.declared import Declarations
    from pytest_falsify.contracts.cache import ContractCache
    from pytest_falsify.contracts.model import Contract
    from pytest_falsify.contracts.vocabulary import Vocabulary

CACHE_FOLDER = "falsify-contracts"


def load(path: Path, cache: ContractCache | None = None) -> Contract | None:
    """Read a contract, its commands included; None for YAML that is not one.

    Args:
        path: a YAML file.
        cache: where contracts that were valid before are kept, if anywhere.

    Raises:
        ContractError: with the line, what was expected and how to mend it.
    """
    from pytest_falsify.checks.command import with_commands
    from pytest_falsify.contracts.load import load_contract

    contract = load_contract(path, vocabulary=vocabulary(), cache=cache)
    return contract and with_commands(contract)


def contract_cache(config: pytest.Config) -> ContractCache | None:
    """Return the contracts kept in pytest's cache; None where pytest runs without its cache."""
    from pytest_falsify.contracts.cache import ContractCache

    pytest_cache: Any = getattr(config, "cache", None)
    if pytest_cache is None:
        return None
    return ContractCache(pytest_cache.mkdir(CACHE_FOLDER))


@cache
def vocabulary() -> Vocabulary:
    """Return the words that a contract may use here."""
    from pytest_falsify.checks.command import KIND
    from pytest_falsify.checks.declared import DECLARED
    from pytest_falsify.checks.registry import check, check_kinds
    from pytest_falsify.checks.survey import JudgesPrompts
    from pytest_falsify.contracts.vocabulary import Vocabulary
    from pytest_falsify.engines.registry import engine, engine_names
    from pytest_falsify.stages.vocabulary import canonical

    kinds = {kind: check(kind) for kind in check_kinds()}
    return Vocabulary(
        checks={kind: _schema_of(each) for kind, each in kinds.items()},
        engines={name: {**DECLARED, **engine(name).options} for name in engine_names()},
        stage=canonical,
        hosted=frozenset({KIND}),
        surveys=frozenset(kind for kind in kinds if isinstance(kinds[kind], JudgesPrompts)),
        repeating=frozenset(kind for kind in kinds if getattr(kinds[kind], "is_repeating", False)),
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


def must_be_options(engine: str, options: Mapping[str, Any]) -> None:
    """Refuse options that an engine does not know, as a contract with them would be.

    Raises:
        FalsifyError: when there is no such engine, or an option or its value is wrong.
    """
    from pytest_falsify.contracts.schemas import shapes
    from pytest_falsify.engines.registry import engine as engine_named

    engine_named(engine)
    for problem in shapes(vocabulary()).engines[engine].violations(options, (engine,)):
        raise ContractError(problem.what, expected=problem.expected, remedy=problem.remedy)


def entry_facts(
    contract: Contract, declarations: Declarations | None = None
) -> dict[str, EntryFacts]:
    """Return what the ledger needs to know of a contract's entries, as things are now.

    Args:
        contract: the contract.
        declarations: shared by contracts that are looked at together; by default made anew.
    """
    from pytest_falsify.checks.declared import Declarations

    declarations = declarations or Declarations()
    return {
        each.id: EntryFacts(
            entry=entry_digest(contract, each),
            targets=tuple(target.name for target in contract.targets_of(each)),
            discharge=each.discharge,
            require=each.require or contract.require,
            known={
                target.name: declarations.of(contract, each, target)
                for target in contract.targets_of(each)
            },
            path=str(contract.path),
            line=each.line,
        )
        for each in contract.falsifiers
    }
