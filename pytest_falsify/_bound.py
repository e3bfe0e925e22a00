"""Ordinary tests as evidence: ``@pytest.mark.falsifies("ID")``, and ``test:`` node ids.

A bound test that ran and passed in all its phases confirms, one that failed refutes. One that did
not run, was skipped, was expected to fail or is empty was not observed, and the summary says so.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import os
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_falsify._items import CONTRACTS, FalsifierItem, UntriedItem, named_tests
from pytest_falsify._warnings import FalsifyWarning
from pytest_falsify.canonical import canonical_bytes, digest_bytes
from pytest_falsify.contracts.digest import entry_digest
from pytest_falsify.errors import FalsifyError
from pytest_falsify.ledger.digests import Digests
from pytest_falsify.ledger.evidence import Evidence, Outcome, Source
from pytest_falsify.ledger.machine import machine_id, platform_words
from pytest_falsify.ledger.observation import Observation

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from pytest_falsify._run import Run
    from pytest_falsify.contracts.model import Contract, Falsifier

MARK = "falsifies"
ATTRIBUTE = "_falsify_bound"
OUTPUT = "falsify_bound"
NOT_RUN = "did not run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One test bound to one falsifier."""

    contract: Contract
    falsifier: Falsifier


class BoundTests:
    """The hooks that make evidence of ordinary tests, on the controller and on each worker."""

    def __init__(self, config: pytest.Config, run: Run | None) -> None:
        self.config = config
        self.run = run
        self._bindings: dict[str, list[Binding]] = {}
        self._unobserved: dict[str, str] = {}
        self._pending: dict[str, list[Any]] = {}
        self._failed: set[str] = set()
        self._observed: set[str] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Bind every collected test, the deselected ones too."""
        contracts = self.config.stash.get(CONTRACTS, [])
        named = _named_tests(contracts, self.config.rootpath)
        for item in items:
            if isinstance(item, (FalsifierItem, UntriedItem)):
                continue
            found = [*self._marked(item, contracts), *named.pop(_function_of(item), ())]
            if found:
                self._bindings[item.nodeid] = found
                self._note(item.nodeid, NOT_RUN)
        for path, missing in named.items():
            for each in missing:
                self._unobserved[path] = f"{each.falsifier.id}: {path} was not collected"

    def _note(self, nodeid: str, why: str) -> None:
        ids = ", ".join(each.falsifier.id for each in self._bindings[nodeid])
        self._unobserved[nodeid] = f"{ids}: {nodeid} {why}"

    def _marked(self, item: pytest.Item, contracts: Sequence[Contract]) -> Iterator[Binding]:
        for mark in item.iter_markers(MARK):
            unknown = sorted(mark.kwargs.keys() - {"contract"})
            if unknown or not mark.args:
                what = f"takes no `{unknown[0]}`" if unknown else "names no falsifier"
                self._warn(item, f'{MARK} {what}: write {MARK}("ID", contract="...")')
            for id_ in mark.args:
                yield from self._resolved(item, str(id_), mark.kwargs.get("contract"), contracts)

    def _resolved(
        self, item: pytest.Item, id_: str, contract: str | None, contracts: Sequence[Contract]
    ) -> Iterator[Binding]:
        found = [
            Binding(contract=each, falsifier=falsifier)
            for each in contracts
            if contract in {None, each.id} and (falsifier := each.falsifier(id_)) is not None
        ]
        if len(found) == 1:
            yield found[0]
        elif found:
            names = ", ".join(each.contract.id for each in found)
            self._warn(item, f'{id_} is in {names}: say which with contract="..."')
        elif contracts:
            known = [falsifier.id for each in contracts for falsifier in each.falsifiers]
            near = difflib.get_close_matches(id_, known, n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]}" if near else ""
            where = f" called {contract}" if contract else " of this session"
            self._warn(item, f"no contract{where} has a falsifier {id_}{hint}")
        else:
            self._unobserved[item.nodeid] = f"{id_}: {item.nodeid} ran without any contract"

    def _warn(self, item: pytest.Item, text: str) -> None:
        # Every worker collects the same tests: one of them is enough to warn.
        if getattr(self.config, "workerinput", {}).get("workerid", "gw0") != "gw0":
            return
        try:
            item.warn(FalsifyWarning(f"{item.nodeid}: {text}"))
        except FalsifyWarning as error:
            raise pytest.UsageError(str(error)) from None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach what a bound test showed to its report, as plain JSON."""
        report = yield
        bindings = self._bindings.get(item.nodeid)
        if bindings:
            outcome = self._outcome(item, call, report)
            if outcome is not None:
                values = [_payload(item, each, outcome, call) for each in bindings]
                setattr(report, ATTRIBUTE, json.loads(canonical_bytes(values)))
        return report

    def _outcome(
        self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport
    ) -> Outcome | None:
        """Return what a phase shows; None, and a note, where it shows nothing."""
        if call.when != "call":
            if report.skipped:
                self._note(item.nodeid, "was skipped")
            elif report.failed:
                self._note(item.nodeid, f"could not be tried: its {call.when} failed")
            return None
        if hasattr(report, "wasxfail") or (report.failed and call.excinfo is None):
            self._note(item.nodeid, "is expected to fail")
        elif report.skipped:
            self._note(item.nodeid, "was skipped")
        elif report.failed and call.excinfo and isinstance(call.excinfo.value, FalsifyError):
            self._note(item.nodeid, "could not observe anything")
        elif report.passed and is_empty(source_of(item)):
            self._note(item.nodeid, "is empty")
        else:
            self._unobserved.pop(item.nodeid, None)
            return Outcome.HELD if report.passed else Outcome.REFUTED
        return None

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a refutation at once, and a confirmation when all phases have passed."""
        if self.run is None:
            return
        if report.failed:
            self._failed.add(report.nodeid)
        values = getattr(report, ATTRIBUTE, None)
        for value in values or ():
            observation = Observation.from_json(value["observation"])
            if observation.evidence and observation.evidence.outcome is Outcome.REFUTED:
                self.run.observe(observation, value["file"])
            else:
                self._pending.setdefault(report.nodeid, []).append((observation, value["file"]))
        if str(report.outcome) == "rerun":  # pytest-rerunfailures' own word
            self._pending.pop(report.nodeid, None)
        elif report.when == "teardown":
            for observation, file in self._pending.pop(report.nodeid, ()):
                if report.nodeid not in self._failed:
                    self.run.observe(observation, file)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Say which bound tests were not observed; a worker tells the controller."""
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output[OUTPUT] = {"bound": sorted(self._bindings), "unobserved": self._unobserved}
        elif self.run:
            self.run.notes += [f"unobserved: {each}" for each in self._unobserved.values()]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker knows: a test was observed where any worker observed it."""
        found = getattr(node, "workeroutput", {}).get(OUTPUT)
        if found is None:
            return
        self._observed |= set(found["bound"]) - found["unobserved"].keys()
        for nodeid, words in found["unobserved"].items():
            # Of what ran elsewhere a worker only knows that it did not run here.
            if nodeid not in self._unobserved or not words.endswith(NOT_RUN):
                self._unobserved[nodeid] = words
        for nodeid in self._observed:
            self._unobserved.pop(nodeid, None)


def _named_tests(contracts: Sequence[Contract], root: Path) -> dict[str, list[Binding]]:
    """Return the bindings of ``test:`` node ids, by node id as pytest writes it."""
    found: dict[str, list[Binding]] = {}
    for contract in contracts:
        for falsifier in contract.falsifiers:
            for node in named_tests(falsifier):
                path, _, names = node.partition("::")
                beside = contract.path.parent / path
                at = beside if beside.exists() and not (root / path).exists() else root / path
                key = f"{os.path.relpath(at, root).replace(os.sep, '/')}::{names}"
                found.setdefault(key, []).append(Binding(contract=contract, falsifier=falsifier))
    return found


def _function_of(item: pytest.Item) -> str:
    original = getattr(item, "originalname", None) or item.name
    return item.nodeid.removesuffix(item.name) + str(original)


def source_of(item: pytest.Item) -> str:
    """Return the text of a test function, or of its file where there is no function."""
    function = inspect.unwrap(getattr(item, "function", lambda: None))
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return item.path.read_text(encoding="utf-8")


def is_empty(source: str) -> bool:
    """Tell whether a test function does nothing: only a docstring, ``pass`` or ``...``."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return False
    function = tree.body[0] if tree.body else None
    if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    return all(
        isinstance(each, ast.Pass)
        or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        for each in function.body
    )


def _payload(
    item: pytest.Item, binding: Binding, outcome: Outcome, call: pytest.CallInfo[None]
) -> dict[str, Any]:
    reason = "the bound test passed"
    if call.excinfo is not None:
        reason = call.excinfo.exconly(tryshort=True).splitlines()[0][:200]
    evidence = Evidence(
        falsifier=binding.falsifier.id,
        target=item.nodeid,
        entry=entry_digest(binding.contract, binding.falsifier),
        digests=Digests(subject=digest_bytes(source_of(item).encode())),
        machine=machine_id(),
        platform=platform_words(),
        outcome=outcome,
        source=Source.BOUND,
        reasons=(reason,),
        coverage={"tests": 1},
    )
    path = os.path.relpath(binding.contract.path, item.config.rootpath)
    return {
        "file": path.replace(os.sep, "/"),
        "observation": Observation.of(binding.contract.id, evidence).to_json(),
    }
