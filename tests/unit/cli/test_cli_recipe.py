"""The recipe for CI says only what is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from itertools import takewhile

import pytest
import yaml

from pytest_falsify.cli import main

CONTRACT = """
metadata: {id: C-A}
targets:
  cpu: {model: ./m, device: cpu, level: algorithm}
  gpu: {model: ./m, device: cuda, level: live}
captures:
  one: {engine: transformers}
  two: {engine: transformers, attention: sdpa}
inputs: {prompt: {tokens: [1, 2]}}
falsification_tests:
- {id: FALSIFY-A-1, rule: r, check: {kind: identical, subject: one, oracle: two}}
"""
RECIPES = [".github/workflows/falsify.yml", "docs/ci.md"]


def _jobs(root):
    return yaml.safe_load((root / RECIPES[0]).read_text())["jobs"]


def _command_lines(root):
    steps = [step for job in _jobs(root).values() for step in job["steps"]]
    return [shlex.split(step["run"]) for step in steps if "run" in step]


def _plugin_options(root):
    return set(
        re.findall(r'"(--falsify[a-z-]*)"', (root / "pytest_falsify/_plugin.py").read_text())
    )


@pytest.mark.parametrize("name", RECIPES)
def test_commands_and_their_options_exist(root, name):
    text = (root / name).read_text()
    found = re.findall(r"pytest-falsify ([a-z][a-z-]+)([^|\n`]*)", text)

    assert {command for command, _ in found} >= {"merge", "diff", "gate"}
    for command, arguments in found:
        options = {each for param in main.commands[command].params for each in param.opts}
        assert set(re.findall(r"--[a-z-]+", arguments)) <= options


@pytest.mark.parametrize("name", RECIPES)
def test_options_of_the_plugin_exist(root, name):
    found = set(re.findall(r"--falsify-[a-z-]+", (root / name).read_text()))

    assert found
    assert found <= _plugin_options(root)


def test_every_command_line_of_the_workflow_is_accepted(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "falsify-runs").mkdir()
    lines = [words for words in _command_lines(root) if words[0].endswith("pytest-falsify")]

    assert {words[1] for words in lines} == {"merge", "diff", "verify", "gate"}
    for _, name, *arguments in lines:
        before_a_file = list(takewhile(lambda word: word != ">", arguments))
        main.commands[name].make_context(name, before_a_file)


@pytest.mark.parametrize("lane", ["cpu", "gpu"])
def test_every_lane_of_the_workflow_is_a_session_that_pytest_accepts(root, tmp_path, lane):
    lines = [words for words in _command_lines(root) if f"--falsify-require-lane={lane}" in words]
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts/c.yaml").write_text(CONTRACT)

    ((_, *arguments),) = lines
    done = subprocess.run(
        [sys.executable, *arguments, "--collect-only", "-q"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"FALSIFY-A-1[{lane}]" in done.stdout


def test_every_target_that_the_workflow_makes_is_a_rule(root):
    made = {words[1] for words in _command_lines(root) if words[0] == "make"}
    makefile = (root / "Makefile").read_text().replace("$(VENV)", ".venv")

    assert made
    assert [
        each for each in made if not re.search(rf"^{re.escape(each)}:", makefile, re.MULTILINE)
    ] == []


def test_jobs_need_jobs_that_are_there(root):
    jobs = _jobs(root)

    assert jobs["ledger"]["needs"] == ["cpu", "gpu"]
    assert {"cpu", "gpu", "ledger"} == set(jobs)
    assert "gpu" in jobs["gpu"]["runs-on"]


def test_actions_are_pinned_to_a_version_and_no_secret_is_used(root):
    text = (root / RECIPES[0]).read_text()
    used = re.findall(r"uses: (\S+)", text)

    assert used
    assert [each for each in used if not re.search(r"@v\d+\.\d+\.\d+$", each)] == []
    assert "secrets." not in text


def test_records_are_uploaded_from_a_hidden_folder_whatever_happened(root):
    steps = [step for name in ("cpu", "gpu") for step in _jobs(root)[name]["steps"]]
    uploads = [step for step in steps if "upload-artifact" in step.get("uses", "")]

    assert len(uploads) == 2
    for step in uploads:
        assert step["if"] == "always()"
        assert step["with"]["include-hidden-files"] is True
