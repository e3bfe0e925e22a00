"""What a session must have tried: lanes that may not be empty, and what may be blocked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from pytest_falsify._places import YAML_SUFFIXES
from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.evidence import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_falsify.contracts.model import Contract


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What became of one selected falsifier on one target.

    Attributes:
        lanes: the marks it ran under; ``cpu`` or ``gpu`` by the device that was really used.
        reason: why it was skipped, in words.
    """

    outcome: Outcome
    lanes: tuple[str, ...] = ()
    reason: str = ""


def empty_lanes(required: Sequence[str], attempts: Mapping[str, Attempt]) -> Iterator[str]:
    """Yield, in words, the lanes in which no falsifier was decided one way or the other."""
    for lane in required:
        found = [each for each in attempts.values() if lane in each.lanes]
        if any(each.outcome.is_decisive for each in found):
            continue
        what = f"none of {len(found)} was decided" if found else "no falsifier of it was tried"
        first = next((f": {each.reason}" for each in found if each.reason), "")
        yield f"the lane `{lane}` is required and {what}{first}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedBlocked:
    """The exact set of items that may be blocked, as a file of one name a line lists them.

    A name is a node id, or ``<contract id>::<falsifier>[<target>]``.

    Attributes:
        lines: the line of each name.
    """

    path: Path
    lines: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file; blank lines and what follows ``#`` do not count.

        Raises:
            LedgerError: when it cannot be read, or names something twice or wrongly.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"the list of what may be blocked cannot be read: {error}"
            raise LedgerError(msg, path=path) from error
        lines: dict[str, int] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            name = line.partition("#")[0].strip()
            if name:
                _refuse_wrong_name(name, lines, path, number)
                lines[name] = number
        return cls(path=path, lines=lines)

    def denials(
        self,
        contracts: Mapping[str, Contract],
        selected: Sequence[str],
        attempts: Mapping[str, Attempt],
    ) -> Iterator[str]:
        """Yield, in words, what was skipped unexpectedly and which lines are stale.

        Args:
            contracts: the contracts of the session, by the path that node ids begin with.
            selected: the node ids that were selected.
            attempts: what became of them.
        """
        for nodeid in selected:
            attempt = attempts.get(nodeid)
            names = _names(nodeid, contracts)
            line = next((self.lines[name] for name in names if name in self.lines), None)
            if attempt is not None:
                yield from self._of_attempt(nodeid, attempt, line)
        yield from self._unknown(contracts)

    def _of_attempt(self, nodeid: str, attempt: Attempt, line: int | None) -> Iterator[str]:
        is_blocked = attempt.outcome is Outcome.BLOCKED
        if line is None and not attempt.outcome.is_decisive:
            what = f"{nodeid} was {attempt.outcome.value} and is not listed in {self.path.name}"
            yield f"{what}: {attempt.reason or 'no reason was given'}"
        elif line is not None and not is_blocked:
            what = f"{nodeid} is listed as blocked and was {attempt.outcome.value}"
            yield f"{self.path.name}:{line}: stale line: {what}; to mend: remove the line"

    def _unknown(self, contracts: Mapping[str, Contract]) -> Iterator[str]:
        known = {
            name
            for path, contract in contracts.items()
            for item in _items(contract)
            for name in _names(f"{path}::{item}", contracts)
        }
        prefixes = {*contracts, *(each.id for each in contracts.values())}
        for name, line in self.lines.items():
            if name.partition("::")[0] in prefixes and name not in known:
                what = f"there is no {name}"
                yield f"{self.path.name}:{line}: stale line: {what}; to mend: remove the line"


def _names(nodeid: str, contracts: Mapping[str, Contract]) -> tuple[str, ...]:
    path, _, item = nodeid.partition("::")
    contract = contracts.get(path)
    return (nodeid, f"{contract.id}::{item}") if contract else (nodeid,)


def _items(contract: Contract) -> Iterator[str]:
    for falsifier in contract.falsifiers:
        targets = contract.targets_of(falsifier)
        yield from (f"{falsifier.id}[{each.name}]" for each in targets)
        if not targets:
            yield falsifier.id


def _refuse_wrong_name(name: str, lines: Mapping[str, int], path: Path, number: int) -> None:
    if name in lines:
        msg = f"{name} is listed twice, first on line {lines[name]}"
        raise LedgerError(msg, path=path, line=number, expected="each name once")
    if "::" not in name:
        msg = f"{name!r} is not the name of an item"
        form = f"a node id (a{YAML_SUFFIXES[0]}::FALSIFY-A-1[tiny]), or C-A::FALSIFY-A-1[tiny]"
        raise LedgerError(msg, path=path, line=number, expected=form)
