"""pytest's door to the package: options, marks and fixtures.

Everything else is imported when ``--falsify`` is given, so that the plugin costs nothing to those
who do not use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify._fixtures import (
    falsify_capture,
    falsify_captures,
    falsify_compare,
    falsify_device,
    falsify_pool,
    falsify_sessions,
    falsify_survey,
    falsify_target,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

__all__ = [
    "falsify_capture",
    "falsify_captures",
    "falsify_compare",
    "falsify_device",
    "falsify_pool",
    "falsify_sessions",
    "falsify_survey",
    "falsify_target",
]

LEDGER_MODES = ("update", "check", "off")
CAPTURE_MODES = ("run", "keep", "off")
STATUSES = ("PARTIAL", "FUNCTIONAL", "DISCHARGED")
MARKERS = (
    "cpu: runs on the CPU",
    "gpu: needs a CUDA device",
    "algorithm: tried on a target of level algorithm",
    "live: tried on a target of level live",
    "falsifies(*ids, contract=None): the falsifiers that this test is evidence for",
    "falsify_target(model, device='cpu', ...): the target of an ordinary test's captures",
)


OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--falsify": {
        "action": "store_true",
        "help": "collect the falsifiers of YAML contracts and try to refute them",
    },
    "--falsify-ledger": {
        "choices": LEDGER_MODES,
        "help": "what to do with the evidence ledger: update it (the default), check that it says "
        "what is observed (the default where CI is set), or leave it off",
    },
    "--falsify-gate": {
        "nargs": "?",
        "const": "require",
        "choices": ("require", *STATUSES),
        "metavar": "STATUS",
        "help": "fail unless every selected falsifier has the status that its contract requires, "
        "or the one given: PARTIAL, FUNCTIONAL or DISCHARGED (write --falsify-gate=STATUS)",
    },
    "--falsify-strict": {
        "action": "store_true",
        "help": "fail what would be skipped because it is blocked or inconclusive",
    },
    "--falsify-allow-commands": {
        "action": "store_true",
        "help": "run the commands that contracts name; without it those entries are blocked",
    },
    "--falsify-require-lane": {
        "action": "append",
        "default": [],
        "metavar": "LANE",
        "help": "fail when no falsifier of this lane (gpu, cpu, live, algorithm or a contract's "
        "own mark) was decided: an absent device must not look like a success; may be repeated",
    },
    "--falsify-expected-blocked": {
        "metavar": "FILE",
        "help": "a file of node ids, or <contract id>::<falsifier>[<target>], that may be blocked, "
        "one a line: whatever else is skipped fails, and so does a line that is blocked no more",
    },
    "--falsify-captures": {
        "choices": CAPTURE_MODES,
        "help": "what keeps captures on disk: the workers of one test run share them (run, the "
        "default), later runs of the same code on this machine do too (keep), or nobody (off)",
    },
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "falsify_captures": {
        "help": "what keeps captures on disk: run, keep or off",
        "default": "run",
    },
    "falsify_captures_size": {
        "help": "how large the captures on disk may become",
        "default": "4GiB",
    },
    "falsify_allow_commands": {
        "help": "run the commands that contracts name",
        "type": "bool",
        "default": False,
    },
    "falsify_evidence": {"help": "the folder of the evidence ledgers", "default": "evidence"},
    "falsify_allowed_signers": {
        "help": "ssh-keygen's file of those who may sign evidence, for the gate",
        "default": "",
    },
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the settings."""
    group = parser.getgroup("falsify", "contracts about language-model inference")
    for option, how in OPTIONS.items():
        group.addoption(option, **how)
    for setting, how in SETTINGS.items():
        parser.addini(setting, **how)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks, and the falsifier hooks where they are asked for."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if config.getoption("--falsify"):
        from pytest_falsify._bound import BoundTests
        from pytest_falsify._session import FalsifySession

        session = FalsifySession(config)
        config.pluginmanager.register(session, "falsify-session")
        config.pluginmanager.register(BoundTests(config, session.run), "falsify-bound")
        # One worker's warnings are enough: all collect the same contracts.
        worker = getattr(config, "workerinput", {}).get("workerid", "gw0")
        if worker == "gw0" and not session.is_dry:
            from pytest_falsify._lint import LintWarnings

            config.pluginmanager.register(LintWarnings(config), "falsify-lint")
