"""Prose as the field writes it, in whatever shape, as plain strings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TEST = ("test", "command")
"""The keys under which an entry says how it is tested."""


def first_text(body: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Return the first of several members that says anything, or an empty string."""
    return next((found for key in keys if (found := text(body.get(key)))), "")


def text(value: Any) -> str:
    """Return a scalar, or a list of them, as one text; a mapping says nothing."""
    match value:
        case None | dict():
            return ""
        case str():
            return value.strip()
        case bool():
            return str(value).lower()
        case list():
            return "\n".join(filter(None, map(text, value)))
        case _:
            return str(value)


def texts(value: Any) -> tuple[str, ...]:
    """Return one text or a list of them as a tuple.

    A mapping becomes ``key: text`` again: that is what ``- v1.1.0 (2026-04-18): added`` was.
    """
    if isinstance(value, dict):
        return tuple(f"{key}: {text(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return tuple(found for item in value for found in texts(item))
    found = text(value)
    return (found,) if found else ()
