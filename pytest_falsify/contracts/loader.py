"""Strict YAML: bytes into plain JSON values, with the line of everything.

The parser is libyaml, through PyYAML; what a plain scalar means is decided here, by the core schema
of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): ``1e-3`` is a number, ``010`` is ten,
``no`` and ``2024-01-31`` are strings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from yaml.cyaml import CParser  # type: ignore[attr-defined]  # the stubs leave it out
from yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)

from pytest_falsify.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64
MAX_NODES = 100_000

_STRING_TAGS = frozenset(("!", "tag:yaml.org,2002:str"))
_TAGS = _STRING_TAGS | {
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "seq", "map")
}

_KEYWORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_INTEGER = re.compile(r"[-+]?[0-9]{1,4000}\Z")
_BASED = re.compile(r"0(?:o[0-7]{1,4000}|x[0-9a-fA-F]{1,4000})\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NUMBER_STARTS = frozenset("0123456789+-.")

_HINTS = (
    ("tab character", "indent with blanks, never tabs"),
    ("mapping values are not allowed", "put quotes around a text that holds `: `"),
    (
        "cannot start any token",
        "indent with blanks, never tabs; quote a text that begins with @ or `",
    ),
    ("while scanning an alias", "quote a text that begins with `*`"),
    ("while scanning a quoted scalar", "close the quotation mark"),
    ("while parsing a flow", "close the bracket or brace"),
    ("block mapping", "give all keys of one mapping the same indentation"),
    ("block collection", "give all items of one list the same indentation"),
)


@dataclass(frozen=True, slots=True)
class Document:
    """One parsed file.

    Attributes:
        path: the file.
        data: the value: dicts with string keys, lists, strings, numbers, booleans, None.
        places: the lines, shaped like the data: an int for a scalar, ``[line, {key: place}]`` for
            a mapping, ``[line, [place, ...]]`` for a list. The line of a member is its key's.
    """

    path: Path
    data: Any
    places: Any

    def line(self, at: Sequence[str | int]) -> int:
        """Return the 1-based line of a value, or of the closest thing around it that exists."""
        place = self.places
        for step in at:
            if isinstance(place, int):
                break
            members = place[1]
            known = step in members if isinstance(members, dict) else _is_index(step, members)
            if not known:
                break
            place = members[step]
        return place if isinstance(place, int) else int(place[0])


def _is_index(step: str | int, members: list[Any]) -> bool:
    return isinstance(step, int) and 0 <= step < len(members)


def read(path: Path) -> bytes:
    """Return the bytes of a contract file, refusing one that is too large to be one.

    Raises:
        ContractError: when it cannot be read or is too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        msg = f"cannot be read: {error.strerror or error}"
        raise ContractError(msg, path=path) from error
    if len(data) > MAX_BYTES:
        msg = f"larger than {MAX_BYTES // 2**20} MiB"
        raise ContractError(msg, path=path, line=1, remedy="split it into several contracts")
    return data


def parse(data: bytes, path: Path) -> Document:
    """Parse one YAML document strictly.

    Args:
        data: the file's bytes.
        path: the file's name, for messages.

    Raises:
        ContractError: when it is not one well-formed YAML document within the bounds.
    """
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        msg = f"not UTF-8 text: {error.reason}"
        raise ContractError(msg, path=path, line=line, remedy="save the file as UTF-8") from error
    try:
        value, place = _Builder(data).document()
    except yaml.reader.ReaderError as error:
        line = data.count(b"\n", 0, error.position) + 1
        msg = f"not YAML: {error.reason}"
        raise ContractError(msg, path=path, line=line, remedy="remove the character") from error
    except yaml.MarkedYAMLError as error:
        raise _broken(error, path) from error
    except ContractError as error:
        raise error.located(path, error.line) from error
    return Document(path, value, place)


class _Builder:
    """Makes plain values straight from the parser's events, and counts what they come to.

    An alias shares the value that it repeats, but is charged for its whole size: whoever walks the
    values later meets no more of them than the bound.
    """

    def __init__(self, data: bytes) -> None:
        self.next: Callable[[], Any] = CParser(data).get_event
        self.left = MAX_NODES
        self.anchors: dict[str, tuple[Any, Any, int]] = {}

    def document(self) -> tuple[Any, Any]:
        """Return the value of the only document, and its places."""
        self.next()  # the stream starts
        if type(self.next()) is StreamEndEvent:
            return None, 1
        value, place = self.build(self.next(), 0)
        self.next()  # the document ends
        following = self.next()
        if type(following) is not StreamEndEvent:
            msg = "a second document begins here"
            raise ContractError(
                msg,
                line=_line(following),
                remedy="keep one contract a file; remove the second `---`",
            )
        return value, place

    def build(self, event: Any, depth: int) -> tuple[Any, Any]:
        """Return the value that begins with an event, and the places of its parts."""
        before = self.left
        self.left -= 1
        if self.left < 0:
            msg = f"more than {MAX_NODES:,} values"
            raise ContractError(msg, line=_line(event), remedy="split it into several contracts")
        kind = type(event)
        value: Any
        place: Any
        if kind is ScalarEvent:
            value, place = _scalar(event), event.start_mark.line + 1
        elif kind is AliasEvent:
            return self._alias(event)
        else:
            self._check(event, depth)
            build = self._mapping if kind is MappingStartEvent else self._sequence
            value, place = build(event, depth + 1)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, place, before - self.left
        return value, place

    def _check(self, event: Any, depth: int) -> None:
        if depth >= MAX_DEPTH:
            msg = f"nested deeper than {MAX_DEPTH} levels"
            raise ContractError(msg, line=_line(event))
        if event.tag is not None:
            _refuse_tag(event)

    def _alias(self, event: Any) -> tuple[Any, Any]:
        if event.anchor not in self.anchors:
            msg = f"nothing before here is named `&{event.anchor}`"
            raise ContractError(
                msg,
                line=_line(event),
                remedy="quote a text that begins with `*`, or define the anchor",
            )
        value, place, size = self.anchors[event.anchor]
        self.left -= size
        if self.left < 0:
            msg = "its aliases unfold to too much"
            raise ContractError(
                msg,
                line=_line(event),
                expected=f"at most {MAX_NODES:,} values",
                remedy="write the values out",
            )
        return value, place

    def _sequence(self, event: Any, depth: int) -> tuple[list[Any], Any]:
        values, places = [], []
        line = _line(event)
        while type(event := self.next()) is not SequenceEndEvent:
            value, place = self.build(event, depth)
            values.append(value)
            places.append(place)
        return values, [line, places]

    def _mapping(self, event: Any, depth: int) -> tuple[dict[str, Any], Any]:
        values: dict[str, Any] = {}
        places: dict[str, Any] = {}
        start = _line(event)
        while type(event := self.next()) is not MappingEndEvent:
            key, line = self._key(event), event.start_mark.line + 1
            if key in values:
                raise _duplicate(key, line, places[key])
            values[key], place = self.build(self.next(), depth)
            places[key] = line if type(place) is int else [line, place[1]]
        return values, [start, places]

    def _key(self, event: Any) -> str:
        self.left -= 1
        if type(event) is not ScalarEvent:
            msg = "a key that is itself a list, a mapping or an alias"
            remedy = "put quotes around a text that begins with [, { or *"
            raise ContractError(msg, line=_line(event), remedy=remedy)
        if event.value == "<<" and event.implicit[0]:
            msg = "`<<` merges mappings in YAML 1.1 only"
            raise ContractError(msg, line=_line(event), remedy="write the keys out")
        if event.anchor is not None:
            self.anchors[event.anchor] = event.value, _line(event), 1
        return str(event.value)


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1


def _duplicate(key: str, line: int, first: Any) -> ContractError:
    first_line = first if isinstance(first, int) else first[0]
    msg = f"key `{key}` stands twice in one mapping"
    return ContractError(
        msg,
        line=line,
        expected=f"each key once; it stands already in line {first_line}",
        remedy="remove or rename one of them",
    )


def _scalar(event: Any) -> Any:
    text = event.value
    if event.tag is not None:
        _refuse_tag(event)
        return text if event.tag in _STRING_TAGS else _core(text)
    if event.implicit[0] and (text in _KEYWORDS or text[0] in _NUMBER_STARTS):
        return _core(text)
    return text


def _core(text: str) -> Any:
    """Return what a plain scalar means in the core schema."""
    if text in _KEYWORDS:
        return _KEYWORDS[text]
    if _INTEGER.match(text):
        return int(text)
    if _BASED.match(text):
        return int(text[2:], 8 if text[1] == "o" else 16)
    return float(text) if _FLOAT.match(text) else text


def _refuse_tag(event: Any) -> None:
    if event.tag not in _TAGS:
        msg = f"the tag `{event.tag}` is not read"
        raise ContractError(
            msg,
            line=_line(event),
            expected="plain YAML 1.2 values",
            remedy="remove the tag; quote a text that begins with `!`",
        )


def _broken(error: yaml.MarkedYAMLError, path: Path) -> ContractError:
    mark = error.problem_mark or error.context_mark
    context = f" ({error.context}" if error.context else ""
    if context and error.context_mark is not None:
        context += f" that begins in line {error.context_mark.line + 1}"
    text = f"{error.problem or 'broken'}{context}{')' if context else ''}"
    remedy = next((hint for sign, hint in _HINTS if sign in text), None)
    msg = f"not YAML: {text}"
    return ContractError(msg, path=path, line=mark.line + 1 if mark else None, remedy=remedy)
