"""What a rule is, what it finds, and what it may look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pytest_falsify.contracts.lint.sources import Sources
    from pytest_falsify.contracts.loader import Document
    from pytest_falsify.contracts.model import Contract
    from pytest_falsify.contracts.problems import Steps


class Severity(Enum):
    """How much a finding weighs; errors fail the command."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place where a rule is broken."""

    rule: str
    path: Path
    line: int
    text: str
    severity: Severity = Severity.WARNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """What a rule reports: the way to the place, and what is wrong there."""

    at: Steps
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """What the contracts that are linted together share.

    Attributes:
        names: every name that a contract can be referred to by: its id and its file's stem.
        falsifiers: where each falsifier id stands first: its file and line.
    """

    names: frozenset[str] = frozenset()
    falsifiers: Mapping[str, tuple[Path, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One contract on trial, and all that a rule may ask about the world around it.

    Attributes:
        statuses: what the ledger supports, falsifier id to status name; None when no ledger was
            read, and nothing can be called overclaimed.
        repeating: the check kinds that record how often they repeated what they observed.
    """

    document: Document
    contract: Contract
    peers: Peers
    sources: Sources
    statuses: Mapping[str, str] | None = None
    repeating: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule: an id, the reason it exists in one line, and the function that looks."""

    id: str
    reason: str
    severity: Severity
    look: Callable[[Subject], Iterator[Hit]]
