"""One session as the controller sees it: what was selected, what came back, what follows.

Workers only send. The controller alone keeps the run record, folds evidence into ledgers, and
decides what is denied.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_falsify._agreement import contradictions, dropped, improvements
from pytest_falsify._gate import Gate
from pytest_falsify._lanes import Attempt, ExpectedBlocked, empty_lanes
from pytest_falsify._loading import contract_cache, entry_facts, load
from pytest_falsify._places import YAML_SUFFIXES, Places
from pytest_falsify._recovery import prune_records, recover_killed
from pytest_falsify.checks.declared import Declarations
from pytest_falsify.errors import REMEDY, FalsifyError, LedgerError
from pytest_falsify.ledger import waivers
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.ledger.journal import Journal
from pytest_falsify.ledger.merge import fold
from pytest_falsify.ledger.observation import Observation
from pytest_falsify.ledger.status import Status, judge
from pytest_falsify.ledger.store import is_canonical, ledger_path, read, update
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_falsify.contracts.model import Contract
    from pytest_falsify.ledger.block import Ledger

ATTRIBUTE = "_falsify"
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
        self.places = Places.of(config)
        self.root = self.places.root
        self.mode = config.getoption("--falsify-ledger") or (
            "check" if os.environ.get("CI") else "update"
        )
        self._gate = _gate_of(config, self.places)
        self._expected_blocked = _expected_blocked_of(config)
        self._attempts: dict[str, Attempt] = {}
        self.folded: list[Folded] = []
        self.denials: list[str] = []
        self.notes: list[str] = []
        self._expected: set[str] = set()
        self._finished: set[str] = set()
        self._bound_files: set[str] = set()
        self._pending: dict[str, Observation] = {}
        self._accepted: list[Observation] = []
        self._breaks: list[str] = []
        self._journal: Journal | None = None
        self._is_concluded = False
        self._declarations = Declarations()

    def start(self) -> None:
        """Take over what sessions that were killed had refuted."""
        if self.mode != "update":
            return
        try:
            self.notes += recover_killed(self.places)
        except FalsifyError as error:
            self.denials.append(f"a killed session could not be recovered: {error}")

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
        silent = f"no report of {number_of(len(missing), 'falsifier')}, first {missing[0]}"
        return [*self._breaks, silent]

    @property
    def is_incomplete(self) -> bool:
        """Whether something selected was not reported: such a run promotes nothing."""
        return bool(self._breaks or self.missing)

    @property
    def is_broken(self) -> bool:
        """Whether something went wrong that nobody asked for, such as the loss of a worker."""
        return bool(self._breaks)

    @property
    def has_news(self) -> bool:
        """Whether there is anything to tell at the end of the session."""
        return bool(self.folded or self.denials or self.notes or self.is_incomplete)

    def take(self, report: pytest.TestReport) -> None:
        """Take one report of one phase.

        A refutation counts at once, and whatever happens later. A confirmation waits for the
        teardown: only a test that passed in all its phases confirms anything.
        """
        if report.nodeid not in self._expected:
            return
        payload = getattr(report, ATTRIBUTE, None)
        if payload is not None:
            observation = Observation.from_json(payload["observation"])
            self._note_attempt(report, observation, payload["lanes"])
            self._hold(report.nodeid, observation)
        elif report.skipped:
            attempt = Attempt(outcome=Outcome.BLOCKED, reason=skip_reason(report.longrepr))
            self._attempts[report.nodeid] = attempt
        if str(report.outcome) == "rerun":  # pytest-rerunfailures' own word
            self._pending.pop(report.nodeid, None)
        elif report.when == "teardown":
            self._finished.add(report.nodeid)
            waiting = self._pending.pop(report.nodeid, None)
            if waiting and report.passed:
                self._accept(waiting)

    def _note_attempt(
        self, report: pytest.TestReport, observation: Observation, lanes: Iterable[str]
    ) -> None:
        evidence = observation.evidence
        if evidence is not None:
            self._attempts[report.nodeid] = Attempt(
                outcome=evidence.outcome, lanes=tuple(lanes), reason="; ".join(evidence.reasons)
            )

    def _hold(self, nodeid: str, observation: Observation) -> None:
        if observation.evidence and observation.evidence.outcome is Outcome.REFUTED:
            self._accept(observation)
        else:
            self._pending[nodeid] = observation

    def observe(self, observation: Observation, file: str) -> None:
        """Take what a test showed that is bound to a falsifier of a contract file."""
        self._bound_files.add(file)
        self._accept(observation)

    def _accept(self, observation: Observation) -> None:
        self._accepted.append(observation)
        if self.mode == "off":
            return
        try:
            self._record().observe(observation)
        except (OSError, LedgerError) as error:
            self.break_off(str(error))

    def _record(self) -> Journal:
        if self._journal is None:
            self.places.prepare()
            self._journal = Journal.open(self.places.runs, self._header())
        return self._journal

    def _header(self) -> dict[str, Any]:
        files = {os.path.relpath(path_of(self.config, each), self.root) for each in self._files()}
        return {"files": sorted(files), "mode": self.mode, "selected": len(self._expected)}

    def _files(self) -> list[str]:
        return sorted({_file_of(each) for each in self._expected} | self._bound_files)

    def conclude(self) -> None:
        """Fold the evidence into the ledgers, or check it against them, and apply the gate."""
        if self._is_concluded:
            return
        self._is_concluded = True
        self._declarations = Declarations()  # as things are at the end of the session
        observed = self._accepted
        if self.is_incomplete:
            observed = [each for each in observed if _is_refutation(each)]
        contracts = self._contracts()
        for contract in contracts.values():
            self._conclude_contract(contract, observed)
        self._close_record()
        self._apply_lanes(contracts)
        self._apply_gate()

    def _close_record(self) -> None:
        if self._journal is None:
            return
        counts = {"observed": len(self._accepted), "selected": len(self._expected)}
        try:
            self._journal.close(counts, complete=not self.is_incomplete)
        except LedgerError as error:
            self.denials.append(str(error))
        # What cannot be tidied up now can be the next time.
        with suppress(OSError, FalsifyError):
            prune_records(self.places.runs)

    def _contracts(self) -> dict[str, Contract]:
        """Return the contracts of the selected falsifiers by file; no two may share a ledger."""
        found: dict[str, Contract] = {}
        ids: dict[str, str] = {}
        for name in self._files():
            contract = load(path_of(self.config, name), contract_cache(self.config))
            if contract is None:
                continue
            if contract.id in ids:
                msg = f"{name} and {Path(ids[contract.id]).name} are both called {contract.id}"
                self.denials.append(f"{msg}: their evidence would mix; give one another id")
                continue
            ids[contract.id] = name
            found[name] = contract
        return found

    def _conclude_contract(self, contract: Contract, observed: list[Observation]) -> None:
        try:
            path = ledger_path(self.places.evidence, contract.id)
            self.folded.append(self._fold(contract, path, observed))
        except FalsifyError as error:
            self.denials.append(str(error))

    def _fold(self, contract: Contract, path: Path, observed: list[Observation]) -> Folded:
        entries = entry_facts(contract, self._declarations)

        def change(before: Ledger | None) -> Ledger:
            return fold(before, contract.id, entries, observed)

        known = read(path, any_words=True) if self.mode == "update" else None
        if self.mode == "update" and self._is_idle(known, contract, observed):
            before, after = known, change(known)
            became = "unchanged" if known else "not written, for nothing was observed"
        elif self.mode == "update":
            done = update(path, change, locks=self.places.locks)
            before, after = done.before, done.after
            became = "updated" if done.is_changed else "unchanged"
            self.notes += dropped(before, after)
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

    def _is_idle(
        self, known: Ledger | None, contract: Contract, observed: list[Observation]
    ) -> bool:
        """Whether there is nothing to write: nothing of this contract was observed."""
        is_silent = not any(each.contract == contract.id for each in observed)
        return is_silent and (self.is_incomplete or known is None)

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

    def _apply_lanes(self, contracts: dict[str, Contract]) -> None:
        required = self.config.getoption("--falsify-require-lane")
        self.denials += empty_lanes(required, self._attempts)
        if self._expected_blocked is not None:
            self.denials += self._expected_blocked.denials(
                contracts, sorted(self._expected), self._attempts
            )

    def _apply_gate(self) -> None:
        if self._gate is None:
            return
        folded = [(each.contract, each.after) for each in self.folded]
        denials, notes = self._gate.decide(folded, is_complete=not self.is_incomplete)
        self.denials += denials
        self.notes += notes


def _gate_of(config: pytest.Config, places: Places) -> Gate | None:
    demanded = config.getoption("--falsify-gate")
    if demanded is None:
        return None
    named = config.getini("falsify_allowed_signers")
    signers = places.root / named if named else None
    try:
        found = waivers.read(places.waivers)
        return Gate(demanded=demanded, waivers=found, allowed_signers=signers)
    except LedgerError as error:
        raise pytest.UsageError(str(error)) from None


def _expected_blocked_of(config: pytest.Config) -> ExpectedBlocked | None:
    name = config.getoption("--falsify-expected-blocked")
    if name is None:
        return None
    try:
        return ExpectedBlocked.read(config.invocation_params.dir / name)
    except LedgerError as error:
        raise pytest.UsageError(str(error)) from None


def path_of(config: pytest.Config, name: str) -> Path:
    """Return the file that a node id begins with.

    It is relative to pytest's root, or, for a file outside of it, to the argument that led there.
    """
    here = config.invocation_params.dir
    given = [here / each.partition("::")[0] for each in config.args]
    places = [folder / name for folder in (config.rootpath, *given)]
    return next((each for each in places if each.is_file()), places[0])


def skip_reason(longrepr: object) -> str:
    """Return why a report says that something was skipped."""
    reason = longrepr[2] if isinstance(longrepr, (tuple, list)) else longrepr
    return str(reason).removeprefix("Skipped: ").split(REMEDY)[0]


def _is_refutation(observation: Observation) -> bool:
    return bool(observation.evidence and observation.evidence.outcome is Outcome.REFUTED)


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _relative(path: str, root: Path) -> str:
    return os.path.relpath(path, root) if Path(path).is_absolute() else path
