"""A scratch git repository with a contract, ledgers and run records made by hand."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from functools import partial

import pytest
from click.testing import CliRunner

from pytest_falsify._loading import entry_facts, load
from pytest_falsify.canonical import digest
from pytest_falsify.cli import main
from pytest_falsify.ledger.digests import DIGEST_NAMES
from pytest_falsify.ledger.evidence import Evidence, Outcome, Source
from pytest_falsify.ledger.journal import Journal
from pytest_falsify.ledger.merge import fold
from pytest_falsify.ledger.observation import Observation
from pytest_falsify.ledger.store import ledger_path, update

CONTRACT = """\
metadata: {{id: {id}}}
targets:
  tiny: {{model: ./m, device: cpu, level: algorithm}}
  teacher: {{model: ./m, device: cuda, level: live}}
captures:
  oracle: {{engine: transformers, dtype: float32}}
  subject: {{engine: transformers, attention: sdpa}}
inputs:
  prompt: {{tokens: [1, 2, 3]}}
falsification_tests:
"""
ENTRY = """\
- id: {id}
  rule: they agree
  check: {{kind: identical, subject: subject, oracle: oracle}}
"""
IDS = ("FALSIFY-A-1", "FALSIFY-A-2", "FALSIFY-A-3")
CAUGHT = {"planted": 8, "caught": 8, "smallest_caught": 0.0021}


class Repository:
    """The repository, the command line in it, and what can be put on file."""

    def __init__(self, path):
        self.path = path
        self.git("init", "-q", "-b", "main")
        self.contract()

    def git(self, *arguments, check=True):
        who = ("-c", "user.name=ada", "-c", "user.email=ada@example.org")
        return subprocess.run(
            ["git", *who, *arguments], cwd=self.path, check=check, capture_output=True, text=True
        )

    def commit(self, message="a step"):
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message, "--allow-empty")

    def contract(self, *ids, id="C-A", name="a", more=""):  # noqa: A002 - the contract's own word
        text = CONTRACT.format(id=id) + "".join(ENTRY.format(id=each) for each in ids or IDS)
        path = self.path / f"contracts/{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + more)

    def evidence(self, falsifier=IDS[0], outcome="held", *, on="a", target="teacher", **changes):
        contract = load(self.path / "contracts/a.yaml")
        entry = entry_facts(contract)[falsifier]
        seen = {name: digest(name) for name in ("subject", "oracle", "inputs")}
        seen |= {name: changes.pop(name) for name in {*changes} & DIGEST_NAMES}
        values = {
            "entry": entry.entry,
            "digests": replace(entry.known[target], **seen),
            "platform": "linux-x86_64",
            "observed": {"worst": {"rel_l2": 0.0031}},
            "faults": CAUGHT,
            "reasons": () if outcome == "held" else (f"{outcome} for a reason",),
            "source": Source.LIVE if target == "teacher" else Source.ALGORITHM,
        }
        return Evidence(
            falsifier=falsifier, target=target, outcome=Outcome(outcome),
            machine=digest(["machine", on]), **{**values, **changes},
        )  # fmt: skip

    def on_file(self, *records):
        """Fold records into the ledger, as a complete session would."""
        contract = load(self.path / "contracts/a.yaml")
        change = partial(
            fold, contract="C-A", entries=entry_facts(contract), observed=_observed(records)
        )
        update(self.ledger, change)

    def run_record(self, name, *records, complete=True, ended=True):
        """Write a run record and return its path."""
        journal = Journal.open(self.path / "runs", {"id": name})
        for each in _observed(records):
            journal.observe(each)
        if ended:
            journal.close({}, complete=complete)
        else:
            journal.abandon()
        return journal.path

    @property
    def ledger(self):
        return ledger_path(self.path / "evidence", "C-A")

    def cli(self, *arguments, status=0, **environ):
        """Run a command and return what it printed; there is never a traceback."""
        result = CliRunner().invoke(main, [str(each) for each in arguments], env=environ)
        assert result.exit_code == status, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.output
        return result.output


def _observed(records):
    return [Observation.of("C-A", each) for each in records]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return Repository(tmp_path)
