"""Parts by name: the built-in ones and those that installed packages offer as entry points."""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from pytest_falsify.errors import FalsifyError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.metadata import EntryPoint

Part = TypeVar("Part")


class Parts(Generic[Part]):
    """Parts of one sort. Nothing is imported before it is asked for by name.

    Args:
        noun: what one is called in messages.
        group: the entry-point group under which packages offer theirs.
        built_in: ``module:class`` by name; a package cannot take the place of one.
    """

    def __init__(self, noun: str, *, group: str, built_in: Mapping[str, str]) -> None:
        self._noun = noun
        self._group = group
        self._built_in = built_in
        self._made: dict[str, Part] = {}

    @cached_property
    def _offered(self) -> dict[str, EntryPoint]:
        return {each.name: each for each in entry_points(group=self._group)}

    def names(self) -> tuple[str, ...]:
        """Return all that can be asked for, sorted."""
        return tuple(sorted({*self._built_in, *self._offered}))

    def get(self, name: str) -> Part:
        """Return the part with a name.

        Raises:
            FalsifyError: when there is none.
        """
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Part:
        if name in self._built_in:
            module, _, attribute = self._built_in[name].partition(":")
            return cast("Part", getattr(import_module(module), attribute)())
        if name in self._offered:
            return cast("Part", self._offered[name].load()())
        msg = f"unknown {self._noun} `{name}`"
        raise FalsifyError(msg, expected=f"one of {', '.join(self.names())}")
