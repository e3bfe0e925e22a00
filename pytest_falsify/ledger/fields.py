"""Strict reading of the JSON objects of this room: a key too many is as wrong as one too few."""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_falsify.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

_Member = TypeVar("_Member", bound=Enum)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_WORDS: Mapping[type, str] = {str: "a string", dict: "an object", list: "a list"}
_T = TypeVar("_T")


def is_digest(value: object) -> bool:
    """Return whether a value is ``sha256:`` and 64 lower-case hexadecimal digits."""
    return isinstance(value, str) and _is_digest_text(value)


@lru_cache(maxsize=4096)
def _is_digest_text(value: str) -> bool:
    return _DIGEST.fullmatch(value) is not None


def as_object(value: object, what: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        LedgerError: when it is something else.
    """
    if isinstance(value, dict):
        return value
    msg = f"{what} is not an object"
    raise LedgerError(msg, expected=f"{what} as an object in braces")


def exact_keys(
    data: Mapping[str, Any],
    what: str,
    *,
    required: AbstractSet[str] = frozenset(),
    optional: AbstractSet[str] = frozenset(),
) -> None:
    """Refuse an object with a key missing or unknown.

    Raises:
        LedgerError: naming the first such key.
    """
    if _has_exactly(tuple(data), frozenset(required), frozenset(optional)):
        return
    if not data.keys() >= required:
        msg = f"{what} has no {min(required - data.keys())!r}"
        raise LedgerError(msg, expected=f"the keys {', '.join(sorted(required))}")
    msg = f"{what} has an unknown key {min(data.keys() - required - optional)!r}"
    known = ", ".join(sorted(required | optional))
    raise LedgerError(msg, expected=f"only the keys {known}")


@lru_cache(maxsize=1024)
def _has_exactly(keys: tuple[str, ...], required: frozenset[str], optional: frozenset[str]) -> bool:
    """Whether no key is missing or unknown; objects of one kind mostly have the same keys."""
    return required <= {*keys} <= required | optional


def hold_kinds(data: Mapping[str, Any], what: str, kinds: Mapping[str, type]) -> None:
    """Refuse a member, of those that are there, that is not of its kind.

    Raises:
        LedgerError: naming the first such member.
    """
    for key, kind in kinds.items():
        if key in data and not isinstance(data[key], kind):
            _get(data, key, what, kind)


def get_text(data: Mapping[str, Any], key: str, what: str) -> str:
    """Return a string member."""
    return _get(data, key, what, str)


def get_object(data: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    """Return an object member."""
    return _get(data, key, what, dict)


def get_list(data: Mapping[str, Any], key: str, what: str) -> list[Any]:
    """Return a list member."""
    return _get(data, key, what, list)


def get_texts(data: Mapping[str, Any], key: str, what: str) -> tuple[str, ...]:
    """Return a member that is a list of strings; an absent one is empty."""
    if key not in data:
        return ()
    values = get_list(data, key, what)
    if all(isinstance(each, str) for each in values):
        return tuple(values)
    msg = f"{key!r} of {what} holds something that is not a string"
    raise LedgerError(msg, expected="a list of strings")


def get_member(data: Mapping[str, Any], key: str, what: str, kind: type[_Member]) -> _Member:
    """Return an enum member by its value."""
    value = data.get(key)
    try:
        member: _Member = _members(kind)[value]
    except (KeyError, TypeError):  # a value that cannot be hashed is no member
        msg = f"{key!r} of {what} is {value!r}"
        members = " or ".join(repr(each.value) for each in kind)
        raise LedgerError(msg, expected=members) from None
    return member


@lru_cache
def _members(kind: type[Enum]) -> Mapping[object, Any]:
    return {each.value: each for each in kind}


def _get(data: Mapping[str, Any], key: str, what: str, kind: type[_T]) -> _T:
    value = data.get(key)
    if isinstance(value, kind):
        return value
    words = _WORDS[kind]
    msg = f"{key!r} of {what} is not {words}"
    raise LedgerError(msg, expected=f"{key!r} as {words}")
