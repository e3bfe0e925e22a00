"""Where a session keeps things: the root that evidence belongs to, and what lies below it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

WAIVERS = "falsify-waivers.toml"
YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The folders and files of one project.

    Attributes:
        root: the folder that evidence belongs to.
        evidence: the ledgers.
    """

    root: Path
    evidence: Path

    @classmethod
    def of(cls, config: pytest.Config) -> Self:
        """Return the places of the project that pytest was started in.

        Without a configuration file pytest takes the arguments' common folder for its root, which
        may be the contracts' own; the repository is a better one.
        """
        root = _root(config)
        return cls(root=root, evidence=root / config.getini("falsify_evidence"))

    @property
    def runs(self) -> Path:
        """The run records."""
        return self.root / ".falsify" / "runs"

    @property
    def captures(self) -> Path:
        """The captures that test runs share."""
        return self.root / ".falsify" / "captures"

    @property
    def run_captures(self) -> Path:
        """The captures that the workers of one test run share."""
        return self.root / ".falsify" / "run-captures"

    @property
    def outcomes(self) -> Path:
        """What surveys that are going on, or were killed, have seen."""
        return self.root / ".falsify" / "outcomes"

    @property
    def locks(self) -> Path:
        """The locks of ledgers and devices."""
        return self.root / ".falsify" / "locks"

    @property
    def waivers(self) -> Path:
        """What people let pass for a while."""
        return self.root / WAIVERS

    def prepare(self) -> None:
        """Make the folder of what belongs to this machine alone, and keep it out of git."""
        ignore = self.root / ".falsify" / ".gitignore"
        if not ignore.exists():
            ignore.parent.mkdir(parents=True, exist_ok=True)
            ignore.write_text("*\n", encoding="utf-8")


def _root(config: pytest.Config) -> Path:
    if config.inipath is not None:
        return config.rootpath
    start = config.invocation_params.dir
    return next((each for each in (start, *start.parents) if (each / ".git").exists()), start)
