"""One session as the controller sees it: what was selected, what came back, what follows.

Workers only send. The controller alone keeps the run record, folds evidence into ledgers, and
decides what is denied.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_falsify._loading import entry_facts, load
from pytest_falsify.errors import FalsifyError
from pytest_falsify.ledger.evidence import Observation, Outcome
from pytest_falsify.ledger.journal import Journal
from pytest_falsify.ledger.merge import fold
from pytest_falsify.ledger.status import Status, judge
from pytest_falsify.ledger.store import is_canonical, ledger_path, read, update

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

    from pytest_falsify.contracts.model import Contract
    from pytest_falsify.ledger.block import FalsifierBlock, Ledger

ATTRIBUTE = "_falsify"
YAML_SUFFIXES = (".yaml", ".yml")
UPDATE = "--falsify-ledger=update"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What a run made of one contract.

    Attributes:
        after: what the evidence says now, on file or not.
        became: what happened to the ledger's file, in words.
    """

    contract: Contract
    ledger_name: str
    before: Ledger | None
    after: Ledger
    became: str

    def status(self, falsifier: str) -> tuple[Status, str]:
        """Return what the evidence supports for a falsifier, and why."""
        return judge(self.after.blocks[falsifier])


class Run:
    """What the controller knows of a session.

    Attributes:
        folded: the contracts of the run, once it is concluded.
        denials: why the run must not pass; each counts as a failure.
        notes: what a person should know and need not act on.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.root = root_of(config)
        self.mode = config.getoption("--falsify-ledger") or (
            "check" if os.environ.get("CI") else "update"
        )
        self.folded: list[Folded] = []
        self.denials: list[str] = []
        self.notes: list[str] = []
        self._expected: set[str] = set()
        self._finished: set[str] = set()
        self._pending: dict[str, Observation] = {}
        self._accepted: list[Observation] = []
        self._breaks: list[str] = []
        self._journal: Journal | None = None
        self._is_concluded = False

    def expect(self, nodeids: Iterable[str]) -> None:
        """Remember the falsifiers that were selected."""
        self._expected |= {each for each in nodeids if _file_of(each).endswith(YAML_SUFFIXES)}

    def break_off(self, reason: str) -> None:
        """Remember that the run cannot be complete."""
        if reason not in self._breaks:
            self._breaks.append(reason)

    @property
    def missing(self) -> tuple[str, ...]:
        """The selected falsifiers whose report never came."""
        return tuple(sorted(self._expected - self._finished))

    def incomplete_because(self) -> list[str]:
        """Return, in words, what is missing from the run."""
        missing = self.missing
        if not missing:
            return list(self._breaks)
        return [*self._breaks, f"no report of {len(missing)} falsifiers, first {missing[0]}"]

    @property
    def is_incomplete(self) -> bool:
        """Whether something selected was not reported: such a run promotes nothing."""
        return bool(self._breaks or self.missing)

    def take(self, report: pytest.TestReport) -> None:
        """Take one report of one phase.

        A refutation counts at once, and whatever happens later. A confirmation waits for the
        teardown: only a test that passed in all its phases confirms anything.
        """
        if report.nodeid not in self._expected:
            return
        payload = getattr(report, ATTRIBUTE, None)
        if payload is not None:
            self._hold(report.nodeid, Observation.from_json(payload))
        if str(report.outcome) == "rerun":  # pytest-rerunfailures' own word
            self._pending.pop(report.nodeid, None)
        elif report.when == "teardown":
            self._finished.add(report.nodeid)
            observation = self._pending.pop(report.nodeid, None)
            if observation and report.passed:
                self._accept(observation)

    def _hold(self, nodeid: str, observation: Observation) -> None:
        if observation.evidence and observation.evidence.outcome is Outcome.REFUTED:
            self._accept(observation)
        else:
            self._pending[nodeid] = observation

    def _accept(self, observation: Observation) -> None:
        if self.mode != "off":
            self._record().observe(observation)
        self._accepted.append(observation)

    def _record(self) -> Journal:
        if self._journal is None:
            header = {"mode": self.mode, "selected": len(self._expected)}
            self._journal = Journal.open(self.root / ".falsify" / "runs", header)
        return self._journal

    def conclude(self) -> None:
        """Fold the evidence into the ledgers, or check it against them, and apply the gate."""
        if self._is_concluded:
            return
        self._is_concluded = True
        observed = self._accepted
        if self.is_incomplete:
            observed = [each for each in observed if _is_refutation(each)]
        for contract in self._contracts():
            self._conclude_contract(contract, observed)
        if self._journal:
            counts = {"observed": len(self._accepted), "selected": len(self._expected)}
            self._journal.close(counts, complete=not self.is_incomplete)
        self._apply_gate()

    def _contracts(self) -> list[Contract]:
        """Return the contracts of the selected falsifiers; no two may share a ledger."""
        found: dict[str, Contract] = {}
        for name in sorted({_file_of(each) for each in self._expected}):
            contract = load(self.config.rootpath / name)
            if contract is None:
                continue
            if contract.id in found:
                msg = f"{name} and {found[contract.id].path.name} are both called {contract.id}"
                self.denials.append(f"{msg}: their evidence would mix; give one another id")
                continue
            found[contract.id] = contract
        return list(found.values())

    def _conclude_contract(self, contract: Contract, observed: list[Observation]) -> None:
        folder = self.root / self.config.getini("falsify_evidence")
        try:
            path = ledger_path(folder, contract.id)
            self.folded.append(self._fold(contract, path, observed))
        except FalsifyError as error:
            self.denials.append(str(error))

    def _fold(self, contract: Contract, path: Path, observed: list[Observation]) -> Folded:
        entries = entry_facts(contract)

        def change(before: Ledger | None) -> Ledger:
            return fold(before, contract.id, entries, observed)

        if self.mode == "update":
            done = update(path, change, locks=self.root / ".falsify" / "locks")
            before, after = done.before, done.after
            became = "updated" if done.is_changed else "unchanged"
        else:
            before = read(path) if self.mode == "check" else None
            after = change(before)
            became = self._check(path, before, after) if self.mode == "check" else "off"
        return Folded(
            contract=contract,
            ledger_name=self._shown(path),
            before=before,
            after=after,
            became=became,
        )

    def _check(self, path: Path, before: Ledger | None, after: Ledger) -> str:
        """Deny what the file says and the evidence does not; announce what the file could say."""
        if before is None:
            self.denials.append(f"{self._shown(path)}: there is no ledger; {self._mend()}")
            return "absent"
        if not is_canonical(path):
            msg = f"{self._shown(path)}: not spelled as it would be written; {self._mend()}"
            self.denials.append(msg)
        wrong = contradictions(before, after)
        self.denials += [f"{self._shown(path)}: {each}; {self._mend()}" for each in wrong]
        better = improvements(before, after)
        self.notes += [f"{self._shown(path)}: {each}; {self._mend('record it')}" for each in better]
        return "contradicted" if wrong else "agrees"

    def _mend(self, verb: str = "to mend") -> str:
        arguments = " ".join(_relative(each, self.root) for each in self.config.args)
        return f"{verb}: pytest --falsify {arguments} {UPDATE}"

    def _shown(self, path: Path) -> str:
        return _relative(str(path), self.root)

    def _apply_gate(self) -> None:
        gate = self.config.getoption("--falsify-gate")
        if gate is None:
            return
        if self.is_incomplete:
            self.denials.append("gate: the run is not complete")
        if not self.folded:
            self.denials.append("gate: no falsifier was selected")
        for each in self.folded:
            for falsifier in each.contract.falsifiers:
                wanted = required_status(each.contract, falsifier.id, gate)
                status, because = each.status(falsifier.id)
                if status.rank < wanted.rank:
                    self.denials.append(
                        f"gate: {falsifier.id} is {status.value}, {wanted.value} is required: "
                        f"{because}"
                    )


def required_status(contract: Contract, falsifier_id: str, gate: str) -> Status:
    """Return the status that a gate demands of a falsifier.

    Args:
        contract: its contract.
        falsifier_id: its id.
        gate: a status, which holds for all, or ``require`` for what the contract says.
    """
    if gate != "require":
        return Status.parse(gate)
    falsifier = contract.falsifier(falsifier_id)
    own = falsifier.require if falsifier else None
    return Status.parse(own or contract.require or Status.FUNCTIONAL.value)


def contradictions(before: Ledger, after: Ledger) -> list[str]:
    """Return, in words, where what is on file is not what the evidence says today."""
    gone = [
        f"{id_} is no longer in the contract" for id_ in before.blocks if id_ not in after.blocks
    ]
    found = [_contradiction(id_, before.blocks.get(id_), new) for id_, new in after.blocks.items()]
    return [*gone, *(each for each in found if each)]


def _contradiction(id_: str, old: FalsifierBlock | None, new: FalsifierBlock) -> str | None:
    if old is None:
        return f"{id_} is not on file"
    (was, _), (now, because) = judge(old), judge(new)
    if now.rank < was.rank or (now is Status.FALSIFIED and new != old):
        return f"{id_} is {now.value}, on file {was.value}: {because}"
    if now.rank == was.rank and (old.entry, old.today) != (new.entry, new.today):
        return f"{id_} is on file for something that has changed since"
    return None


def improvements(before: Ledger, after: Ledger) -> list[str]:
    """Return, in words, what the evidence of today supports beyond what is on file."""
    found = []
    for id_, new in after.blocks.items():
        old, (now, because) = before.blocks.get(id_), judge(new)
        if old is not None and now.rank > judge(old)[0].rank:
            found.append(f"{id_} could be {now.value}: {because}")
    return found


def root_of(config: pytest.Config) -> Path:
    """Return the folder that evidence belongs to.

    Without a configuration file pytest takes the arguments' common folder for its root, which may
    be the contracts' own; the repository is a better one.
    """
    if config.inipath is not None:
        return config.rootpath
    start = config.invocation_params.dir
    return next((each for each in (start, *start.parents) if (each / ".git").exists()), start)


def _is_refutation(observation: Observation) -> bool:
    return bool(observation.evidence and observation.evidence.outcome is Outcome.REFUTED)


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _relative(path: str, root: Path) -> str:
    return os.path.relpath(path, root) if Path(path).is_absolute() else path
