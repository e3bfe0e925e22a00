"""What a contract says, as frozen objects. Every object knows the line it was read from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Level(Enum):
    """How close to the served system a target is."""

    ALGORITHM = "algorithm"
    LIVE = "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a claim is tried.

    Attributes:
        model: a folder relative to the contract, or a name in a model hub.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``auto``.
        provide: the command that makes or fetches the model when it is absent.
    """

    name: str
    model: str
    line: int
    revision: str | None = None
    device: str = "cpu"
    level: Level = Level.ALGORITHM
    memory: str | None = None
    provide: str | None = None
    markers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSpec:
    """How one capture is made: an engine and its options (dtype, attention, ...)."""

    name: str
    engine: str
    line: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What the model is fed: exactly one of text, token ids, a file of text, or a dataset.

    Attributes:
        forced: the token ids that decode steps are fed; empty: the greedy ones.
        dataset: a JSONL file of prompts, which only a check that asks for one is tried with.
        field: the key of its lines that holds the prompt; None: whichever a line has.
        limit: how many of its lines are read; None: all.
    """

    name: str
    line: int
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    file: str | None = None
    forced: tuple[int, ...] = ()
    dataset: str | None = None
    field: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSpec:
    """The executable part of a falsifier: a kind and its parameters."""

    kind: str
    line: int
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Equation:
    """One equation of a contract, with the invariants that a falsifier can bind to."""

    name: str
    line: int
    formula: str | None = None
    invariants: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligation:
    """One proof obligation as the field writes them (``proof_obligations``)."""

    line: int
    id: str | None = None
    kind: str | None = None
    property: str | None = None
    formal: str | None = None
    tolerance: float | str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Falsifier:
    """One entry of ``falsification_tests``.

    Attributes:
        targets: the names of the targets it is tried on; empty means all of the contract's.
        require: the status that the gate demands, or None for the gate's default.
        claimed_status: a status typed by hand, which only lint looks at.
        cited: files and functions that the entry names as evidence, in any dialect.
        is_named: the id was written by a person, and not made from the entry's position.
        extra: every key that has no field of its own, kept as it was written.
    """

    id: str
    line: int
    rule: str = ""
    prediction: str = ""
    if_fails: str = ""
    test: str | None = None
    binds_to: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    require: str | None = None
    check: CheckSpec | None = None
    claimed_status: str | None = None
    discharge: Mapping[str, Any] = field(default_factory=dict)
    cited: tuple[str, ...] = ()
    is_named: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something in a contract that is not wrong but that its writer should know.

    Attributes:
        at: the way to it from the top of the document.
    """

    at: tuple[str | int, ...]
    line: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """One YAML file that declares falsifiers.

    Attributes:
        id: the first of metadata.id, contract_id, contract, name that pytest can select, else the
            file's name without its suffix.
        extra: every top-level key but the sections that became objects, kept as it was written.
        notices: what was read but is not understood, at most once a contract.
    """

    path: Path
    id: str
    version: str | None = None
    description: str = ""
    claimed_status: str | None = None
    require: str | None = None
    markers: tuple[str, ...] = ()
    equations: tuple[Equation, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    targets: Mapping[str, Target] = field(default_factory=dict)
    captures: Mapping[str, CaptureSpec] = field(default_factory=dict)
    inputs: Mapping[str, InputSpec] = field(default_factory=dict)
    falsifiers: tuple[Falsifier, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()

    def targets_of(self, falsifier: Falsifier) -> tuple[Target, ...]:
        """Return the targets that a falsifier is tried on, in the order of the contract."""
        if falsifier.check is None:
            return ()
        names = falsifier.targets or tuple(self.targets)
        return tuple(self.targets[name] for name in names)

    def inputs_of(self, falsifier: Falsifier) -> tuple[str, ...]:
        """Return the names of the inputs that a falsifier is tried with.

        They are those that its check names; else all but datasets, which have to be named.
        """
        if falsifier.check is None:
            return ()
        named = tuple(falsifier.check.parameters.get("inputs", ()))
        return named or tuple(name for name, each in self.inputs.items() if not each.dataset)

    def falsifier(self, id: str) -> Falsifier | None:  # noqa: A002 - the field's own word
        """Return the falsifier with an id, or None."""
        return next((each for each in self.falsifiers if each.id == id), None)
