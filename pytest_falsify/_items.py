"""Contract files and falsifiers as pytest's collectors and items.

An item is a ``pytest.Function`` under a ``pytest.Module`` that has no Python module: fixtures of
every scope, marks, reruns and reports work on it with public names only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_falsify._permission import may_run_commands
from pytest_falsify.errors import ContractError, FalsifyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.verdict import Verdict
    from pytest_falsify.contracts.model import Contract, Falsifier, Target

VERDICT: pytest.StashKey[Verdict] = pytest.StashKey()
CONTRACTS: pytest.StashKey[list[Contract]] = pytest.StashKey()
"""On the configuration: the contracts that this process collected."""
_MARKS: pytest.StashKey[dict[str, pytest.MarkDecorator]] = pytest.StashKey()
OWN_MARKS = {"cpu", "gpu", "algorithm", "live"}
LANES = {"cpu": ("cpu",), "cuda": ("gpu",), "auto": ("cpu", "gpu")}


class RefutedError(Exception):
    """The claim was observed not to hold."""


class ContractFile(pytest.Module):
    """One contract; its falsifiers are its items."""

    obj = None  # there is no Python module to import

    def collect(self) -> Iterator[pytest.Item]:
        """Yield one item per falsifier and target."""
        from pytest_falsify._loading import contract_cache, load

        try:
            contract = load(self.path, contract_cache(self.config))
        except ContractError as error:
            raise self.CollectError(str(error)) from None
        if contract is None:
            return
        self.config.stash.setdefault(CONTRACTS, []).append(contract)
        for falsifier in contract.falsifiers:
            yield from self._items(contract, falsifier)

    def _items(self, contract: Contract, falsifier: Falsifier) -> Iterator[pytest.Item]:
        targets = contract.targets_of(falsifier)
        if not targets:
            yield UntriedItem.from_parent(self, name=falsifier.id, falsifier=falsifier)
        for target in targets:
            yield FalsifierItem.from_parent(
                self,
                name=f"{falsifier.id}[{target.name}]",
                contract=contract,
                falsifier=falsifier,
                target=target,
            )


class FalsifierItem(pytest.Function):
    """One falsifier on one target."""

    def __init__(
        self, *, contract: Contract, falsifier: Falsifier, target: Target, **kwargs: Any
    ) -> None:
        from pytest_falsify.checks.claim import Claim

        self.claim: Claim = Claim(contract=contract, falsifier=falsifier, target=target)
        super().__init__(callobj=_body, **kwargs)
        for mark in marks_of(contract, target):
            self.add_marker(self._mark(mark))

    def _mark(self, name: str) -> pytest.MarkDecorator:
        known = self.config.stash.setdefault(_MARKS, {})
        if name not in known:
            if name not in OWN_MARKS:
                text = f"{name}: a mark of {self.claim.contract.id}"
                self.config.addinivalue_line("markers", text)
            known[name] = getattr(pytest.mark, name)
        return known[name]

    def setup(self) -> None:
        """Skip what may not run here before anything is made for it."""
        from pytest_falsify.checks.declared import must_have_sources

        if self.claim.check.kind == "command" and not may_run_commands(self.config):
            pytest.skip(
                "its command is not run without permission; to mend: read it (pytest-falsify show "
                f"{self.claim.falsifier.id}), then give --falsify-allow-commands"
            )
        must_have_sources(self.claim.contract, self.claim.falsifier)
        super().setup()

    def try_claim(self, captures: Any, compare: Any, sessions: Any, survey: Any) -> None:
        from pytest_falsify.checks.inside import JudgesInside
        from pytest_falsify.checks.registry import check
        from pytest_falsify.checks.served import is_served, judge_served
        from pytest_falsify.checks.survey import JudgesPrompts
        from pytest_falsify.ledger.evidence import Outcome

        kind = check(self.claim.check.kind)
        if survey is not None and isinstance(kind, JudgesPrompts):
            verdict = kind.judge_survey(self.claim, survey)
        elif is_served(captures):
            verdict = judge_served(kind, self.claim, captures)
        elif isinstance(kind, JudgesInside):
            verdict = kind.judge_with(self.claim, captures, compare, sessions)
        else:
            verdict = kind.judge(self.claim, captures, compare)
        self.stash[VERDICT] = verdict
        if verdict.outcome is Outcome.REFUTED:
            raise RefutedError("; ".join(verdict.reasons))
        if verdict.outcome is not Outcome.HELD:
            pytest.skip(f"{verdict.outcome.value}: {'; '.join(verdict.reasons)}")

    if hasattr(pytest.Item, "id"):

        @property
        def id(self) -> Any:
            """The structured form of the node id, as reading the node id gives it.

            pytest 9.2 builds an item's from its name, bracket included, and a report's from its
            node id, bracket apart; as long as the two differ, ``--last-failed`` finds nothing.
            """
            return type(super().id).parse(self.nodeid)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the file, the 0-based line and the name that pytest shows."""
        return self.path, self.claim.falsifier.line - 1, f"{self.path.name}::{self.name}"

    def place(self) -> str:
        """Return ``path:line`` of the falsifier, as seen from where pytest was started."""
        path = os.path.relpath(self.path, self.config.invocation_params.dir)
        return f"{path}:{self.claim.falsifier.line}"

    def repr_failure(
        self,
        excinfo: pytest.ExceptionInfo[BaseException],
        style: Any = None,  # noqa: ARG002 - pytest.Node has it, pytest.Function decides it itself
    ) -> Any:
        """Show a refutation as a table, a mistake of the user's in one line, else a traceback."""
        if isinstance(excinfo.value, RefutedError):
            from pytest_falsify.report.refutation import render_refutation

            return render_refutation(
                self.claim,
                self.stash[VERDICT],
                place=self.place(),
                command=self._again(),
                is_full=self.config.get_verbosity() > 0,
            )
        if isinstance(excinfo.value, FalsifyError):
            return self.explain(excinfo.value)
        return super().repr_failure(excinfo)

    def _again(self) -> str:
        """Return what runs this one item again, typed where pytest was started."""
        path = os.path.relpath(self.path, self.config.invocation_params.dir)
        permission = " --falsify-allow-commands" if may_run_commands(self.config) else ""
        return f"pytest --falsify{permission} '{path}::{self.name}'"

    def explain(self, error: FalsifyError) -> str:
        """Return an error's text with the falsifier's place where it has none of its own."""
        return str(error) if error.path else f"{self.place()}: {error}"


def _body(
    request: pytest.FixtureRequest,
    falsify_device: Any,  # asked for first, so that an absent one blocks whoever makes captures
    falsify_captures: Any,
    falsify_compare: Any,
    falsify_sessions: Any,
) -> None:
    del falsify_device
    item: Any = request.node
    survey = request.getfixturevalue("falsify_survey")  # made with the captures
    item.try_claim(falsify_captures, falsify_compare, falsify_sessions, survey)


class UntriedItem(pytest.Function):
    """A falsifier that nothing can run: it is listed and counted, and says what it lacks."""

    def __init__(self, *, falsifier: Falsifier, **kwargs: Any) -> None:
        self.falsifier = falsifier
        super().__init__(callobj=self._skip, **kwargs)

    def _skip(self) -> None:
        from pytest_falsify.contracts.shell_words import judge_test

        nodes = named_tests(self.falsifier)
        if nodes:
            pytest.skip(f"it is bound to {', '.join(nodes)}, which is its evidence")
        what = "it has no `check:`"
        if self.falsifier.test:
            why = judge_test(self.falsifier.test).why or "it names a test that pytest cannot find"
            what = f"its `test:` {why[3:]}" if why.startswith("it ") else why
        pytest.skip(f"UNTRIED: {what}; to mend: give the entry a `check:`")

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the file, the 0-based line and the name that pytest shows."""
        return self.path, self.falsifier.line - 1, f"{self.path.name}::{self.name}"


def named_tests(falsifier: Falsifier) -> tuple[str, ...]:
    """Return the pytest node ids that a falsifier's ``test:`` string names."""
    from pytest_falsify.contracts.shell_words import StringKind, judge_test

    if falsifier.check is not None or not falsifier.test:
        return ()
    text = falsifier.test.strip()
    return (text,) if judge_test(text).kind is StringKind.NODE else ()


def lanes_of(item: FalsifierItem) -> list[str]:
    """Return the lanes that an item ran in: its marks, with the device that it really had."""
    lanes = marks_of(item.claim.contract, item.claim.target)
    device = item.funcargs.get("falsify_device")
    if not isinstance(device, str):
        return list(lanes)
    had = LANES.get(device.partition(":")[0], ())
    return [*had, *(each for each in lanes if each not in {"cpu", "gpu"})]


def marks_of(contract: Contract, target: Target) -> tuple[str, ...]:
    """Return the marks of an item: its lanes, its level, and the contract's and target's own."""
    lanes = LANES[target.device.partition(":")[0]]
    return (*lanes, target.level.value, *contract.markers, *target.markers)
