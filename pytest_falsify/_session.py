"""The hooks that serve ``--falsify``: collection, evidence from items, and the end of the run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_falsify._items import VERDICT, ContractFile, FalsifierItem, UntriedItem, lanes_of
from pytest_falsify._places import YAML_SUFFIXES
from pytest_falsify._run import ATTRIBUTE, Run
from pytest_falsify._told import Told
from pytest_falsify.canonical import canonical_bytes
from pytest_falsify.checks.declared import Declarations
from pytest_falsify.checks.evidence import blocked, evidence_of
from pytest_falsify.contracts.load import looks_like_contract
from pytest_falsify.errors import REMEDY, FalsifyError
from pytest_falsify.ledger.observation import Observation

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from pytest_falsify.checks.base import Captures

INCOMPLETE = 3


class FalsifySession:
    """The hooks of one session, on the controller and on each worker alike."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.is_controller = not hasattr(config, "workerinput")
        self.is_dry = config.option.collectonly or config.option.setuponly
        self.run = Run(config) if self.is_controller and not self.is_dry else None
        self.declarations = Declarations()

    def pytest_sessionstart(self) -> None:
        """Take over what sessions that were killed had refuted."""
        if self.run:
            self.run.start()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> object | None:
        """Keep falsifiers that share captures on one worker, where no other way was asked for."""
        if config.getoption("dist") != "load":
            return None
        from pytest_falsify._xdist import CaptureScheduling

        return CaptureScheduling(config, log)

    def pytest_collect_file(
        self, file_path: Path, parent: pytest.Collector
    ) -> pytest.Collector | None:
        """Take a YAML file that is a contract, or that looks like a broken one."""
        if file_path.suffix not in YAML_SUFFIXES or not self._is_ours(file_path):
            return None
        collector: pytest.Collector = ContractFile.from_parent(parent, path=file_path)
        return collector

    def _is_ours(self, path: Path) -> bool:
        is_named = any(argument.split("::")[0] == str(path) for argument in self.config.args)
        return is_named or "contracts" in path.parts or looks_like_contract(path.read_bytes())

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Remember what was selected."""
        if self.run:
            self.run.expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Remember what was selected: under xdist the controller does not collect."""
        if self.run:
            self.run.expect(ids)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach the evidence of a falsifier to its report, as plain JSON."""
        report = yield
        if isinstance(item, FalsifierItem | UntriedItem) and isinstance(report.longrepr, tuple):
            # A skip is about the entry, and not about the line of ours that says so.
            path, line, _ = item.reportinfo()
            report.longrepr = (str(path), line + 1, report.longrepr[2])
        if isinstance(item, FalsifierItem):
            self._attach(item, call, report)
        elif call.excinfo is not None and isinstance(call.excinfo.value, FalsifyError):
            report.longrepr = str(call.excinfo.value)
        return report

    def _attach(
        self, item: FalsifierItem, call: pytest.CallInfo[None], report: pytest.TestReport
    ) -> None:
        if call.excinfo is not None and isinstance(call.excinfo.value, FalsifyError):
            report.longrepr = item.explain(call.excinfo.value)
        observation = _observation(item, call, self.declarations)
        if observation is not None:
            # Plain JSON, or xdist dies of what it cannot send.
            value = {"lanes": lanes_of(item), "observation": observation.to_json()}
            payload = json.loads(canonical_bytes(value))
            setattr(report, ATTRIBUTE, payload)
        if report.skipped and self.config.getoption("--falsify-strict"):
            report.outcome = "failed"
            report.longrepr = f"{item.place()}: {_skip_reason(call)}"

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a worker, or this process, reports."""
        if self.run:
            self.run.take(report)
            if report.failed and isinstance(report.longrepr, str):
                report.longrepr = cast("Any", Told(report.longrepr))

    def pytest_internalerror(self) -> None:
        """Remember that the run broke: pytest-xdist may end it with status 0 (its issue 1017)."""
        if self.run:
            self.run.break_off("an internal error of pytest")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, error: object) -> None:
        """Remember that a worker was lost."""
        if self.run and error:
            self.run.break_off(f"a worker was lost: {error}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Conclude while the number of failures can still be raised."""
        try:
            return (yield)
        finally:
            if self.run:
                self.run.conclude()
                session.testsfailed += len(self.run.denials)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Tell a run that lost something from one that failed, and never call it a success.

        A run that was stopped, as ``-x`` does, keeps its status.
        """
        if self.run is None or not self.run.is_incomplete:
            return
        is_stopped = bool(session.shouldstop or session.shouldfail) and not self.run.is_broken
        if exitstatus == pytest.ExitCode.OK or (
            exitstatus == pytest.ExitCode.TESTS_FAILED and not is_stopped
        ):
            session.exitstatus = INCOMPLETE

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show a line per falsifier, what became of the ledgers, and what was denied."""
        if self.run is None or not self.run.has_news:
            return
        from pytest_falsify.report.summary import summary_lines

        terminalreporter.section("falsify", sep="=")
        is_full = self.config.get_verbosity() > 0
        if self.run.folded:
            for text, markup in summary_lines(self.run.folded, is_full=is_full):
                terminalreporter.write_line(text, **markup)
        for note in self.run.notes:
            terminalreporter.write_line(f"note: {note}")
        for reason in self.run.incomplete_because():
            terminalreporter.write_line(f"incomplete: {reason}; nothing was promoted", red=True)
        for denial in self.run.denials:
            terminalreporter.write_line(f"denied: {denial}", red=True)


def _observation(
    item: FalsifierItem, call: pytest.CallInfo[None], declarations: Declarations
) -> Observation | None:
    """Return what a phase of an item brings to the ledger, if anything."""
    is_skip = call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception)
    verdict = item.stash.get(VERDICT, None)
    if call.when == "setup" and is_skip:
        known = declarations.of(item.claim.contract, item.claim.falsifier, item.claim.target)
        evidence = blocked(item.claim, _skip_reason(call).split(REMEDY)[0], known)
    elif call.when == "call" and verdict is not None:
        captures = cast("Captures", item.funcargs["falsify_captures"])
        known = declarations.of(item.claim.contract, item.claim.falsifier, item.claim.target)
        evidence = evidence_of(item.claim, verdict, captures, known)
    else:
        return None
    return Observation.of(item.claim.contract.id, evidence)


def _skip_reason(call: pytest.CallInfo[None]) -> str:
    return str(getattr(call.excinfo and call.excinfo.value, "msg", call.excinfo))
