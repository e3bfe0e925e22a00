"""How a failure is told: whole where failures are shown, in one line where they are listed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class TerminalWriter(Protocol):
    """What pytest writes to a terminal with."""

    def line(self, text: str, /) -> None:
        """Write one line, or several."""


@dataclass(frozen=True, slots=True)
class Crash:
    """What pytest's short summary shows of a failure."""

    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Told:
    """A failure's text, in the shape that pytest gives to its own.

    As a plain string pytest would list it whole once more wherever ``CI`` is set.
    """

    text: str

    @property
    def reprcrash(self) -> Crash:
        """Return the first line."""
        return Crash(self.text.partition("\n")[0])

    def toterminal(self, tw: TerminalWriter) -> None:
        """Write the whole text."""
        tw.line(self.text)

    def __str__(self) -> str:
        return self.text
