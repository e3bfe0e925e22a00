"""Checks that look into a loaded model, and not only at captures of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pytest_falsify.engines.base import Session

if TYPE_CHECKING:
    from pytest_falsify.checks.base import Captures, Compare
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.verdict import Verdict

Sessions = Mapping[str, Session]
"""Loaded models by the names of their captures."""


@runtime_checkable
class JudgesInside(Protocol):
    """A check that does a model's operations again, or runs it once more where it has to."""

    def sessions(self, claim: Claim) -> tuple[str, ...]:
        """Return the names of the captures whose loaded models it needs."""

    def judge_with(
        self, claim: Claim, captures: Captures, compare: Compare, sessions: Sessions
    ) -> Verdict:
        """Judge with the models at hand."""
