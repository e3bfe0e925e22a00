"""Every error that a user can cause, with the place, the expectation and the remedy."""

from __future__ import annotations

from pathlib import Path

REMEDY = "; to mend: "


class FalsifyError(Exception):
    """A mistake or an absence that a person can mend; it is shown without a traceback.

    Args:
        what: what is wrong, in one sentence, without a full stop.
        path: the file it is wrong in.
        line: the 1-based line in that file.
        expected: what would have been right, with the YAML path where there is one.
        remedy: what to do about it, a command where possible.
    """

    def __init__(
        self,
        what: str,
        *,
        path: Path | str | None = None,
        line: int | None = None,
        expected: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.path = path
        self.line = line
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [f"{self._place()}{self.what}"]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.remedy:
            lines.append(f"  to mend: {self.remedy}")
        return "\n".join(lines)

    def _place(self) -> str:
        if self.path is None:
            return ""
        path = _from_here(Path(self.path))
        return f"{path}: " if self.line is None else f"{path}:{self.line}: "

    def located(self, path: Path | str, line: int | None) -> FalsifyError:
        """Return this error with a place, keeping a more exact one that it already has."""
        if self.path is not None:
            return self
        return type(self)(
            self.what, path=path, line=line, expected=self.expected, remedy=self.remedy
        )


def _from_here(path: Path) -> Path:
    """Return a path as a person at the prompt would type it."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


class ContractError(FalsifyError):
    """A contract file is not what the schema or the vocabulary asks for."""


class CaptureError(FalsifyError):
    """A capture could not be made, read or written."""


class AlignmentError(FalsifyError):
    """Two tensors describe different populations and may not be compared as they lie."""


class LedgerError(FalsifyError):
    """A ledger or a run record is unreadable, not canonical, or contradicts what was observed."""


class Blocked(FalsifyError):  # noqa: N818 - it is the name of the verdict, not of a mistake
    """A device, an engine or a model is absent here: the claim could not be tried."""

    @property
    def one_line(self) -> str:
        """What is absent and what would provide it, for pytest's skip reason."""
        return f"{self.what}{REMEDY}{self.remedy}" if self.remedy else self.what
