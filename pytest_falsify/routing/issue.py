"""What is wrong with a run: a code that programs know, and a sentence with file and line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_falsify.contracts.loader import parse
from pytest_falsify.contracts.problems import yaml_path
from pytest_falsify.errors import CaptureError, FalsifyError
from pytest_falsify.routing.documents import AGAIN, FILES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Lines = Mapping[str, tuple[int, ...]]

SCHEMA = "schema"
_MOST_TOLD = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One rule that a run breaks.

    Attributes:
        code: the rule; ``schema`` for all that the JSON Schema says.
        what: one sentence.
        document: which of the run's documents, by its name in ``Documents``, or a file's name.
        at: the way from the top of the run to the wrong value: an event's index comes first in
            ``raw_events`` and ``derived_events``.
        is_structural: nothing can be read from this place: further rules would stumble over it.
    """

    code: str
    what: str
    document: str
    at: tuple[str | int, ...] = ()
    is_structural: bool = False

    @property
    def file(self) -> str:
        """The name of the document's file."""
        return FILES.get(self.document, self.document)

    @property
    def sentence(self) -> str:
        """``code: what (where)``."""
        where = f" ({yaml_path(self.at)})" if self.at else ""
        return f"{self.code}: {self.what}{where}"

    def line(self, lines: Lines, folder: Path) -> int | None:
        """Return the line in the document's file, where it can be told."""
        if self.document in lines:
            known = lines[self.document]
            index = self.at[0] if self.at else None
            return known[index] if isinstance(index, int) and index < len(known) else None
        path = folder / self.file
        if path.suffix != ".json":
            return None
        try:
            return parse(path.read_bytes(), path).line(self.at)
        except (OSError, FalsifyError):
            return None  # larger than what lines are counted in: the path in the document remains

    def told(self, lines: Lines, folder: Path) -> str:
        """Return ``file:line: code: what (where)``."""
        line = self.line(lines, folder)
        return f"{self.file}{f':{line}' if line else ''}: {self.sentence}"


class InvalidRun(CaptureError):  # noqa: N818 - what it is about is the run
    """A run that breaks rules.

    Attributes:
        codes: of all that it breaks, in order, each once.
    """

    codes: tuple[str, ...] = ()


def raise_any(issues: Sequence[Issue], folder: Path, lines: Lines) -> None:
    """Refuse a run that breaks rules, naming the first with its file and line.

    Args:
        issues: what is wrong, in order.
        folder: of the run.
        lines: the line of each event, by the name of the document that has one a line.

    Raises:
        InvalidRun: with all codes.
    """
    if not issues:
        return
    first = issues[0]
    told = [each.told(lines, folder) for each in issues[1 : _MOST_TOLD + 1]]
    more = "".join(f"\n  also: {each}" for each in told)
    left = len(issues) - 1 - len(told)
    error = InvalidRun(
        first.sentence + more + (f"\n  and {left} more" if left > 0 else ""),
        path=folder / first.file,
        line=first.line(lines, folder),
        remedy=AGAIN,
    )
    error.codes = tuple(dict.fromkeys(each.code for each in issues))
    raise error
