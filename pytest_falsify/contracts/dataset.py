"""Datasets: one prompt a line, as JSON. What is not exactly that is an error with its line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from pytest_falsify.canonical import parse_json
from pytest_falsify.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ID = "id"
TOKENS = "tokens"
FIELDS = ("prompt", "text", TOKENS)
"""What a line may hold its prompt as; ``prompt`` and ``text`` are both a text."""
EXAMPLE = '{"id": "sum", "prompt": "What is 2+2?"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One line of a dataset: a text or token ids.

    Attributes:
        id: what the line calls it, else the number of the line.
        line: its line, from 1.
    """

    id: str
    line: int
    text: str | None = None
    tokens: tuple[int, ...] | None = None


def read_dataset(
    path: Path, *, field: str | None = None, limit: int | None = None
) -> tuple[Prompt, ...]:
    """Read the prompts of a JSONL file.

    Other keys of a line than ``id`` and the prompt's own are left alone.

    Args:
        path: the file.
        field: which key holds the prompt; None: the only one of ``FIELDS`` that a line has.
        limit: read no more lines than these; None: all.

    Raises:
        ContractError: when it cannot be read, a line is no object with a prompt, or two share an
            id.
    """
    found: dict[str, Prompt] = {}
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(islice(lines, limit), start=1):
                prompt = _prompt(line, _Place(path=path, line=number), field)
                if prompt.id in found:
                    msg = f"the id `{prompt.id}` is also that of line {found[prompt.id].line}"
                    raise ContractError(msg, path=path, line=number, expected="an id of its own")
                found[prompt.id] = prompt
    except OSError as error:
        msg = f"the dataset cannot be read: {error.strerror or error}"
        raise ContractError(
            msg, path=path, expected="a JSONL file, relative to the contract"
        ) from error
    return tuple(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    path: Path
    line: int

    def error(self, what: str, expected: str) -> ContractError:
        return ContractError(what, path=self.path, line=self.line, expected=expected)


def _prompt(line: bytes, place: _Place, field: str | None) -> Prompt:
    body = _object(line, place)
    key = field or _only_field(body, place)
    if key not in body:
        what = f"the line has no `{key}`"
        raise place.error(what, f"`{key}`, which the input names as its field")
    value = body[key]
    if key == TOKENS:
        return Prompt(id=_id(body, place), line=place.line, tokens=_ids(value, place))
    if not isinstance(value, str) or not value:
        what = f"`{key}` is no text"
        raise place.error(what, EXAMPLE)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"`{key}` holds half a character: {error.reason}"
        raise place.error(what, "text that can be written as UTF-8") from error
    return Prompt(id=_id(body, place), line=place.line, text=value)


def _object(line: bytes, place: _Place) -> dict[str, Any]:
    try:
        body = parse_json(line.decode(), object_pairs_hook=_once)
    except ValueError as error:
        what = f"the line is not JSON: {error}"
        raise place.error(what, EXAMPLE) from error
    if not isinstance(body, dict):
        what = "the line is no object"
        raise place.error(what, EXAMPLE)
    return body


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(_repeated(key for key, _ in pairs))
        msg = f"`{twice}` stands there twice"
        raise ValueError(msg)
    return found


def _repeated(keys: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            yield key
        seen.add(key)


def _only_field(body: dict[str, Any], place: _Place) -> str:
    found = [name for name in FIELDS if name in body]
    if len(found) == 1:
        return found[0]
    what = f"the line has {' and '.join(f'`{each}`' for each in found) or 'no prompt'}"
    raise place.error(what, "one of `prompt`, `text`, `tokens`, or an input that names its `field`")


def _id(body: dict[str, Any], place: _Place) -> str:
    value = body.get(ID, place.line)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        what = f"`{ID}` is {json.dumps(value)}"
        raise place.error(what, "a text or a whole number")
    return str(value)


def _ids(value: Any, place: _Place) -> tuple[int, ...]:
    is_list = isinstance(value, list) and bool(value)
    if not is_list or not all(type(each) is int and each >= 0 for each in value):
        what = f"`{TOKENS}` is no list of token ids"
        raise place.error(what, "at least one whole number, none below 0")
    return tuple(value)
