"""Mistakes in a contract, collected before they are reported together."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_falsify.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_falsify.contracts.loader import Document

Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake.

    Attributes:
        at: the way from the top of the document to the wrong value or key.
        what: what is wrong.
        expected: what would be right, without the YAML path.
        remedy: how to mend it.
    """

    at: Steps
    what: str
    expected: str
    remedy: str | None = None

    def located(self, document: Document) -> ContractError:
        """Return the error that names file, line and YAML path."""
        return ContractError(
            self.what,
            path=document.path,
            line=document.line(self.at),
            expected=f"{yaml_path(self.at)}: {self.expected}",
            remedy=self.remedy,
        )


class ContractErrors(ContractError):  # noqa: N818 - the plural is the point
    """Several mistakes in one contract.

    Attributes:
        problems: the single errors, in the order of the file.
    """

    def __init__(self, problems: Sequence[ContractError]) -> None:
        first = problems[0]
        super().__init__(
            first.what,
            path=first.path,
            line=first.line,
            expected=first.expected,
            remedy=first.remedy,
        )
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def raise_any(problems: Sequence[Problem], document: Document) -> None:
    """Raise what was found, if anything, in the order of the file.

    Raises:
        ContractError: the only problem, or all of them as one ContractErrors.
    """
    errors = sorted((each.located(document) for each in problems), key=lambda each: each.line or 0)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ContractErrors(errors)


def yaml_path(at: Sequence[str | int]) -> str:
    """Return a path as people write it: ``falsification_tests[3].check.kind``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in at)
    return text.removeprefix(".") or "the document"


def nearest(word: object, allowed: Iterable[str]) -> str | None:
    """Return a remedy that names the closest allowed spelling, if one is close."""
    close = difflib.get_close_matches(str(word), [*allowed], n=1)
    return f"did you mean `{close[0]}`?" if close else None


def one_of(allowed: Iterable[str], none: str = "none is defined") -> str:
    """Return the allowed words as an expectation."""
    words = sorted(allowed)
    return f"one of {', '.join(words)}" if words else none
