"""Strict YAML: bytes into plain JSON values, with the line of everything.

The composer is PyYAML's C one; what a plain scalar means is decided here, by the core schema of
YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): ``1e-3`` is a number, ``010`` is ten,
``no`` and ``2024-01-31`` are strings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from yaml.cyaml import CParser  # type: ignore[attr-defined]  # the stubs leave it out
from yaml.nodes import ScalarNode, SequenceNode

from pytest_falsify.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64
MAX_NODES = 100_000

_STRING = "tag:yaml.org,2002:str"
_CORE = "tag:yaml.org,2002:core"
_EXPLICIT = {
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "seq", "map")
} | {_CORE}

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
    ("expected a single document", "keep one contract a file; remove the second `---`"),
    ("undefined alias", "quote a text that begins with `*`, or define the anchor before it"),
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
        node = _compose(data)
        value, place = _Builder().build(node, 0) if node is not None else (None, 1)
    except yaml.reader.ReaderError as error:
        line = data.count(b"\n", 0, error.position) + 1
        msg = f"not YAML: {error.reason}"
        raise ContractError(msg, path=path, line=line, remedy="remove the character") from error
    except yaml.MarkedYAMLError as error:
        raise _broken(error, path) from error
    except ContractError as error:
        raise error.located(path, error.line) from error
    return Document(path, value, place)


class _Composer(CParser):
    """The C composer, with bounds and the scalars of YAML 1.2."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.depth = 0
        self.count = 0

    def resolve(self, kind: type[object], value: str, implicit: Any) -> str:
        """Name the tag of a node that has none; ``implicit`` is a pair for scalars."""
        if kind is ScalarNode and not (implicit[0] and _may_be_special(value)):
            return _STRING
        return _CORE

    def descend_resolver(self, parent: yaml.Node | None, _index: object) -> None:
        """Count a node; the composer calls it before it reads one."""
        self.depth += 1
        self.count += 1
        if self.depth > MAX_DEPTH:
            msg = f"nested deeper than {MAX_DEPTH} levels"
            raise ContractError(msg, line=_line(parent))
        if self.count > MAX_NODES:
            msg = f"more than {MAX_NODES:,} values"
            raise ContractError(msg, line=_line(parent), remedy="split it into several contracts")

    def ascend_resolver(self) -> None:
        """Leave a node; the composer calls it after it has read one."""
        self.depth -= 1


def _may_be_special(value: str) -> bool:
    return value in _KEYWORDS or value[0] in _NUMBER_STARTS


def _compose(data: bytes) -> yaml.Node | None:
    composer = _Composer(data)
    try:
        node: yaml.Node | None = composer.get_single_node()
        return node
    finally:
        composer.dispose()


def _line(node: yaml.Node | None) -> int:
    return 1 if node is None else node.start_mark.line + 1


class _Builder:
    """Makes plain values from nodes. An alias is copied: what it unfolds to is what is bounded."""

    def __init__(self) -> None:
        self.left = MAX_NODES

    def build(self, node: yaml.Node, depth: int) -> tuple[Any, Any]:
        """Return the value of a node and the places of its parts."""
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH:
            msg = "its aliases unfold to too much"
            raise ContractError(
                msg,
                line=_line(node),
                expected=f"at most {MAX_NODES:,} values, {MAX_DEPTH} levels deep, none in itself",
                remedy="write the values out",
            )
        if isinstance(node, ScalarNode):
            return _scalar(node), node.start_mark.line + 1
        _refuse_tag(node)
        if isinstance(node, SequenceNode):
            return self._sequence(node, depth + 1)
        return self._mapping(node, depth + 1)

    def _sequence(self, node: SequenceNode, depth: int) -> tuple[list[Any], Any]:
        values, places = [], []
        for item in node.value:
            value, place = self.build(item, depth)
            values.append(value)
            places.append(place)
        return values, [_line(node), places]

    def _mapping(self, node: yaml.Node, depth: int) -> tuple[dict[str, Any], Any]:
        values: dict[str, Any] = {}
        places: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = _key(key_node), key_node.start_mark.line + 1
            if key in values:
                raise _duplicate(key, line, places[key])
            value, place = self.build(value_node, depth)
            values[key] = value
            if isinstance(place, int):
                places[key] = line
            else:
                place[0] = line
                places[key] = place
        return values, [_line(node), places]


def _key(node: yaml.Node) -> str:
    if not isinstance(node, ScalarNode):
        msg = "a key that is itself a list or a mapping"
        raise ContractError(msg, line=_line(node), remedy="put quotes around a text with [ or {")
    if node.value == "<<" and node.tag == _STRING and not node.style:
        msg = "`<<` merges mappings in YAML 1.1 only"
        raise ContractError(msg, line=_line(node), remedy="write the keys out")
    return str(node.value)


def _duplicate(key: str, line: int, first: Any) -> ContractError:
    first_line = first if isinstance(first, int) else first[0]
    msg = f"key `{key}` stands twice in one mapping"
    return ContractError(
        msg,
        line=line,
        expected=f"each key once; it stands already in line {first_line}",
        remedy="remove or rename one of them",
    )


def _scalar(node: ScalarNode) -> Any:
    tag, text = node.tag, node.value
    if tag == _STRING:
        return text
    _refuse_tag(node)
    if text in _KEYWORDS:
        return _KEYWORDS[text]
    if _INTEGER.match(text):
        return int(text)
    if _BASED.match(text):
        return int(text[2:], 8 if text[1] == "o" else 16)
    return float(text) if _FLOAT.match(text) else text


def _refuse_tag(node: yaml.Node) -> None:
    if node.tag not in _EXPLICIT and node.tag not in ("!", _STRING):
        msg = f"the tag `{node.tag}` is not read"
        raise ContractError(
            msg,
            line=_line(node),
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
