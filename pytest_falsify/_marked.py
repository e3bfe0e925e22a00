"""The target that an ordinary test states with a mark, held against what a contract may state."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from pytest_falsify.contracts.model import Level, Target
from pytest_falsify.contracts.schemas import Shape, contract_schema
from pytest_falsify.errors import ContractError

if TYPE_CHECKING:
    import pytest


def target_of(mark: pytest.Mark, *, name: str) -> Target:
    """Return the target of a mark ``falsify_target(model="folder", device="cpu", ...)``.

    Args:
        mark: the mark.
        name: what the target is called in messages.

    Raises:
        ContractError: when an argument is unknown, missing or of the wrong type.
    """
    if mark.args:
        msg = f"{mark.name} takes named arguments only"
        raise ContractError(msg, expected=f'@pytest.mark.{mark.name}(model="...", device="cpu")')
    values = {key: _plain(value) for key, value in mark.kwargs.items()}
    for problem in _shape().violations(values):
        msg = f"@pytest.mark.{mark.name}: {problem.what}"
        raise ContractError(msg, expected=problem.expected, remedy=problem.remedy)
    level, markers = Level(values.pop("level", "algorithm")), tuple(values.pop("markers", ()))
    return Target(name=name, line=0, level=level, markers=markers, **values)


def _shape() -> Shape:
    schema = contract_schema()
    return Shape({**schema["$defs"]["target"], "$defs": schema["$defs"]})


def _plain(value: Any) -> Any:
    """The value as a contract would have it."""
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value
