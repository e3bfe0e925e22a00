"""How far a survey has come, in one line of a terminal that somebody looks at."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from pytest_falsify.compare.rates import Rate

QUIET_SECONDS = 2.0
BETWEEN_SECONDS = 0.2


@dataclass(kw_only=True)
class Progress:
    """One line, kept up to date once a survey has taken a while, and taken away at its end.

    Attributes:
        falsifier: whose survey it is.
        confidence: of the bound that is told.
        note: what to know of it before it goes on, said once and left to stand; empty: nothing.
        reporter: pytest's own; None: nobody looks.
        is_terminal: whether a line can be taken away again; else there is nothing but the note.
        capturing: pytest's own, which takes all that is written meanwhile; None: nothing does.
        clock: seconds; for tests.
    """

    falsifier: str
    confidence: float
    note: str = ""
    reporter: Any = None
    is_terminal: bool = True
    capturing: Any = None
    clock: Callable[[], float] = monotonic
    _shown_at: float = field(init=False)
    _is_shown: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._shown_at = self.clock()

    @classmethod
    def of(
        cls, config: pytest.Config, falsifier: str, confidence: float, *, note: str = ""
    ) -> Self:
        """Return the progress of a survey; silent in CI and in workers."""
        reporter: Any = config.pluginmanager.getplugin("terminalreporter")
        is_alone = not hasattr(config, "workerinput") and not os.environ.get("CI")
        return cls(
            falsifier=falsifier,
            confidence=confidence,
            note=note,
            reporter=reporter if is_alone else None,
            is_terminal=bool(getattr(reporter, "isatty", False)),
            capturing=config.pluginmanager.getplugin("capturemanager"),
        )

    def __call__(self, done: int, total: int, rate: Rate | None) -> None:
        """Tell how many prompts are done, of how many, and what is known of them."""
        wait = BETWEEN_SECONDS if self._is_shown else QUIET_SECONDS
        if self.reporter is None or self.clock() - self._shown_at < wait:
            return
        if not self._is_shown:
            self._begun()
        self._is_shown, self._shown_at = True, self.clock()
        if not self.is_terminal:
            return
        line = self.line(done, total, rate)
        self._written(lambda: self.reporter.rewrite(line, erase=True))

    def line(self, done: int, total: int, rate: Rate | None) -> str:
        """Return what is told: ``FALSIFY-X-001: 120/420 prompts, 3 differ, upper bound 7.1 %``."""
        told = f"{self.falsifier}: {done}/{total} prompts"
        if rate is None:
            return told
        _, high = rate.interval(self.confidence)
        return f"{told}, {rate.count} differ, upper bound {high * 100:.2g} %"

    def close(self) -> None:
        """Take the line away."""
        if self._is_shown and self.is_terminal:
            self._written(lambda: self.reporter.rewrite("", erase=True))
            self._written(lambda: self.reporter.write("\r"))

    def _begun(self) -> None:
        if self.note or self.is_terminal:
            self._written(self.reporter.ensure_newline)
        if self.note:
            self._written(lambda: self.reporter.write_line(f"{self.falsifier}: {self.note}"))

    def _written(self, write: Callable[[], object]) -> None:
        """Write past pytest's own capturing, as its live log does."""
        aside = self.capturing.global_and_fixture_disabled() if self.capturing else nullcontext()
        with aside:
            write()
            self.reporter.flush()  # what is left in the buffer would be captured after all
