"""The files of a run as JSON values, read strictly and written canonically."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Never

from pytest_falsify.canonical import parse_json
from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Json = dict[str, Any]

MANIFEST, RAW_TRACE, LAYOUT = "manifest.json", "raw_trace.ndjson", "layout.json"
DERIVED, MOTIF_LEDGER, CONTINGENCY = "derived.ndjson", "motif_ledger.json", "contingency.json"
FILES = {
    "manifest": MANIFEST,
    "raw_events": RAW_TRACE,
    "layout": LAYOUT,
    "derived_events": DERIVED,
    "motif_ledger": MOTIF_LEDGER,
    "contingency": CONTINGENCY,
}
OPTIONAL = frozenset({"derived_events", "motif_ledger", "contingency"})
AGAIN = "record the run again, or copy it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """What a run folder holds, as JSON values; what is optional and absent is None.

    Attributes:
        raw_lines: the line of each raw event in its file.
        derived_lines: the line of each derived event.
    """

    manifest: Json
    raw_events: Sequence[Json]
    layout: Json
    derived_events: Sequence[Json] | None = None
    motif_ledger: Json | None = None
    contingency: Json | None = None
    raw_lines: tuple[int, ...] = ()
    derived_lines: tuple[int, ...] = ()

    @property
    def lines(self) -> Mapping[str, tuple[int, ...]]:
        """The lines of the events, by the name of their document."""
        return {"raw_events": self.raw_lines, "derived_events": self.derived_lines}

    def present(self) -> Iterator[tuple[str, Any]]:
        """Yield the name and the value of each document that is there."""
        for name in FILES:
            value = getattr(self, name)
            if value is not None:
                yield name, value


def read_documents(folder: Path) -> Documents:
    """Read the files of a run; nothing but their form is checked.

    Raises:
        CaptureError: when one is missing, is no JSON, or holds NaN or infinity.
    """
    found: dict[str, Any] = {}
    for name, file in FILES.items():
        path = folder / file
        if not path.is_file():
            if name in OPTIONAL:
                continue
            msg = f"there is no {file}"
            raise CaptureError(msg, path=folder, expected="a run: " + ", ".join(_required()))
        if file.endswith(".ndjson"):
            lines = "raw_lines" if name == "raw_events" else "derived_lines"
            found[name], found[lines] = read_lines(path)
        else:
            found[name] = read_object(path)
    return Documents(**found)


def read_object(path: Path) -> Json:
    """Read one JSON object.

    Raises:
        CaptureError: with the line where it is none.
    """
    return _object(_text(path), path, line=None)


def read_lines(path: Path) -> tuple[list[Json], tuple[int, ...]]:
    """Read one JSON object a line, blank lines left out; return them and their lines."""
    found, lines = [], []
    for number, text in enumerate(_text(path).split("\n"), start=1):
        if text.strip():
            found.append(_object(text, path, line=number))
            lines.append(number)
    return found, tuple(lines)


def document_text(value: Mapping[str, Any]) -> str:
    """Return a document as it is written: keys sorted, indented."""
    return json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n"


def lines_text(values: Sequence[Mapping[str, Any]]) -> str:
    """Return documents as they are written into one file, a line each."""
    lines = [json.dumps(each, sort_keys=True, allow_nan=False) for each in values]
    return "".join(f"{line}\n" for line in lines)


def _required() -> list[str]:
    return [file for name, file in FILES.items() if name not in OPTIONAL]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        msg = f"it cannot be read: {error}"
        raise CaptureError(msg, path=path, remedy=AGAIN) from error


def _object(text: str, path: Path, *, line: int | None) -> Json:
    try:
        found = parse_json(text, parse_constant=_refuse, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        msg = f"this is no JSON: {error.msg}"
        at = error.lineno if line is None else line
        raise CaptureError(msg, path=path, line=at, remedy=AGAIN) from error
    except ValueError as error:
        raise CaptureError(
            str(error), path=path, line=line, expected="numbers and keys as JSON has them"
        ) from error
    if not isinstance(found, dict):
        msg = "this is no JSON object"
        raise CaptureError(msg, path=path, line=line or 1, expected="an object", remedy=AGAIN)
    return found


def _refuse(word: str) -> Never:
    msg = f"{word} is no number of JSON"
    raise ValueError(msg)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"the key `{twice}` is there twice"
        raise ValueError(msg)
    return found
