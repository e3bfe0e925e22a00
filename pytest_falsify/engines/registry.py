"""Engines by name: the built-in ones and those of installed packages.

A package offers an engine under the entry-point group ``pytest_falsify.engines``; nothing is
imported before a capture asks for it by name.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from pytest_falsify.errors import FalsifyError

if TYPE_CHECKING:
    from pytest_falsify.engines.base import Engine

GROUP = "pytest_falsify.engines"
BUILT_IN = {"transformers": "pytest_falsify.engines.transformers:TransformersEngine"}


@cache
def engine_names() -> tuple[str, ...]:
    """Return the names of all engines that can be asked for, sorted."""
    return tuple(sorted({*BUILT_IN, *(each.name for each in entry_points(group=GROUP))}))


@cache
def engine(name: str) -> Engine:
    """Return the engine with a name.

    Raises:
        FalsifyError: when no engine has that name.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return cast("Engine", getattr(import_module(module), attribute)())
    for each in entry_points(group=GROUP):
        if each.name == name:
            return cast("Engine", each.load()())
    msg = f"unknown engine `{name}`"
    raise FalsifyError(msg, expected=f"one of {', '.join(engine_names())}")
