"""The door to contracts: the loader with the vocabulary of everything that is installed."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

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
        checks={
            kind: {
                "type": "object",
                "properties": dict(check(kind).parameters),
                "required": list(check(kind).required),
                "additionalProperties": False,
            }
            for kind in check_kinds()
        },
        engines={name: engine(name).options for name in engine_names()},
        stage=canonical,
    )
