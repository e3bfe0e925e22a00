"""The whole life of a falsifier in a git repository, with the diff that reviewers see at each step.

PARTIAL on a laptop, FUNCTIONAL from a live target, DISCHARGED by a second machine's record, STALE
after a change of the code, FALSIFIED by a refutation, and what a fix brings back. The diffs are
golden files; ``UPDATE_GOLDEN=1`` writes them.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_falsify.cli import main

GOLDEN = Path(__file__).parents[1] / "golden" / "life"
CONTRACT = """
metadata: {id: C-ATTENTION}
targets:
  tiny: {model: ./tiny, device: cpu, level: algorithm}
  teacher: {model: ./teacher, device: cpu, level: live}
captures:
  oracle: {engine: transformers, dtype: float32}
  subject: {engine: transformers, dtype: float32, attention: sdpa, sources: [kernel.cu]}
inputs:
  prompt: {tokens: [1, 2, 3, 4, 5]}
falsification_tests:
- id: FALSIFY-ATTENTION-001
  rule: the kernel agrees with the oracle
  prediction: within 1e-3 at every stage
  require: FUNCTIONAL
  check: {kind: parity, subject: subject, oracle: oracle, expect: {rel_l2: {max: 1e-3}}}
"""
HAS_TEACHER = """
@pytest.fixture(autouse=True)
def teacher_is_here(falsify_target):
    if falsify_target.name == "teacher" and os.environ["FALSIFY_MACHINE"] == "laptop":
        pytest.skip("the teacher does not fit into a laptop; to mend: run -m live where it does")
"""


class Life:
    """A repository, and what is done to it."""

    def __init__(self, project, monkeypatch):
        self.project = project
        self.path = project.path
        self._monkeypatch = monkeypatch
        monkeypatch.chdir(project.path)
        self.git("init", "-q", "-b", "main")
        project.file(".gitignore", "__pycache__/\n")

    def git(self, *arguments):
        who = ("-c", "user.name=ada", "-c", "user.email=ada@example.org")
        return subprocess.run(
            ["git", *who, *arguments], cwd=self.path, check=True, capture_output=True, text=True
        ).stdout

    def code(self, version, error):
        """Write the code on trial: its version, and how far off it is."""
        self.project.captures(version=version, FALSIFY_ATTENTION_001=error)
        self.project.file("kernel.cu", f"// version {version}\n")
        with (self.path / "conftest.py").open("a") as file:
            file.write(HAS_TEACHER)

    def commit(self, message):
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def run(self, machine, *arguments):
        self._monkeypatch.setenv("FALSIFY_MACHINE", machine)
        return self.project.run("contracts", *arguments)

    def cli(self, *arguments, status=0):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == status, result.output
        return result.output

    def shows(self, name):
        """Check the diff of the step against its golden files, and commit the step."""
        _same(GOLDEN / f"{name}.txt", self.cli("diff", "HEAD"))
        _same(GOLDEN / f"{name}.md", self.cli("diff", "HEAD", "--format", "markdown"))
        self.commit(name)

    @property
    def status(self):
        statuses = self.cli("status", "--format", "json")
        return statuses.split('"status": "')[1].split('"')[0]


def _same(path, text):
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


@pytest.fixture
def life(project, monkeypatch):
    return Life(project, monkeypatch)


def test_the_whole_life_of_a_falsifier(life):
    life.project.file("contracts/attention.yaml", CONTRACT)
    life.code("1", 1e-4)
    life.commit("a claim")
    assert life.status == "UNTRIED"

    assert life.run("laptop").outcomes == {"passed": 1, "skipped": 1}
    assert life.status == "PARTIAL"
    life.shows("1-partial-on-a-laptop")
    life.cli("gate", status=1)

    assert life.run("server-a", "-m", "live").outcomes == {"passed": 1}
    assert life.status == "FUNCTIONAL"
    life.shows("2-functional-on-a-live-target")
    life.cli("gate", "--base", "HEAD~1")

    record = _record_of_another_machine(life)
    assert life.status == "FUNCTIONAL"
    life.cli("merge", str(record))
    assert life.status == "DISCHARGED"
    life.shows("3-discharged-by-a-second-machine")
    life.cli("verify")
    life.cli("gate", "--base", "HEAD~1")

    life.code("2", "empty")
    assert life.status == "STALE"
    assert life.run("laptop").outcomes == {"skipped": 2}
    life.shows("4-stale-after-a-change")
    assert "is STALE: was DISCHARGED" in life.cli("gate", "--base", "HEAD~1", status=1)

    life.code("2", 0.5)
    assert life.run("server-a").outcomes == {"failed": 2}
    assert life.status == "FALSIFIED"
    life.shows("5-falsified-by-a-refutation")
    assert "is FALSIFIED" in life.cli("gate", "--base", "HEAD~1", status=1)

    life.code("3", 1e-4)
    assert life.run("server-a").outcomes == {"passed": 2}
    assert life.status == "FUNCTIONAL"
    life.shows("6-functional-again-after-a-fix")
    life.cli("gate", "--base", "HEAD~1")

    life.run("server-b")
    assert life.status == "DISCHARGED"
    life.shows("7-discharged-again")
    life.cli("verify")
    assert _statuses(life.cli("log", "FALSIFY-ATTENTION-001")) == [
        "DISCHARGED", "FUNCTIONAL", "FALSIFIED", "STALE", "DISCHARGED", "FUNCTIONAL", "PARTIAL",
    ]  # fmt: skip


def _record_of_another_machine(life):
    """Run on another machine that writes no ledger, and bring its run record here."""
    for each in (life.path / ".falsify/runs").iterdir():
        each.unlink()
    ran = life.run("server-b", "-m", "live", "--falsify-ledger=check")
    assert ran.result.ret == 0
    assert "could be DISCHARGED" in ran.text
    (record,) = (life.path / ".falsify/runs").glob("*.jsonl")
    brought = life.path / "server-b.jsonl"
    record.rename(brought)
    return brought


def _statuses(log):
    lines = [line.split() for line in log.splitlines() if not line.startswith(" ")]
    return [words[2] for words in lines]
