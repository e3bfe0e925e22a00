"""Checks by kind: the built-in ones and those of installed packages.

A package offers a check under the entry-point group ``pytest_falsify.checks``.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from pytest_falsify.errors import FalsifyError

if TYPE_CHECKING:
    from pytest_falsify.checks.base import Check

GROUP = "pytest_falsify.checks"
BUILT_IN = {
    "argmax": "pytest_falsify.checks.choices:Argmax",
    "command": "pytest_falsify.checks.command:Command",
    "deterministic": "pytest_falsify.checks.deterministic:Deterministic",
    "differs": "pytest_falsify.checks.differs:Differs",
    "distribution": "pytest_falsify.checks.distribution:Distribution",
    "identical": "pytest_falsify.checks.identical:Identical",
    "parity": "pytest_falsify.checks.parity:Parity",
    "tokens": "pytest_falsify.checks.tokens:Tokens",
    "topk": "pytest_falsify.checks.choices:TopK",
    "unobserved": "pytest_falsify.checks.unobserved:Unobserved",
}


@cache
def check_kinds() -> tuple[str, ...]:
    """Return all kinds that a contract can ask for, sorted."""
    return tuple(sorted({*BUILT_IN, *(each.name for each in entry_points(group=GROUP))}))


@cache
def check(kind: str) -> Check:
    """Return the check of a kind.

    Raises:
        FalsifyError: when there is no such kind.
    """
    if kind in BUILT_IN:
        module, _, attribute = BUILT_IN[kind].partition(":")
        return cast("Check", getattr(import_module(module), attribute)())
    for each in entry_points(group=GROUP):
        if each.name == kind:
            return cast("Check", each.load()())
    msg = f"unknown check kind `{kind}`"
    raise FalsifyError(msg, expected=f"one of {', '.join(check_kinds())}")
