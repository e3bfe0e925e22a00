"""Many prompts on the trained model: what holds, what is refuted, and what a killed run leaves."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers.models.qwen2.modeling_qwen2")

CONTRACT = """
metadata: {{id: C-ONE}}
targets: {{here: {{model: {model}, device: cpu}}}}
captures:
  oracle: {{engine: transformers, dtype: float32, attention: eager}}
  subject: {{engine: transformers, dtype: float32, attention: sdpa}}
  broken:
    engine: transformers
    dtype: float32
    attention: sdpa
    plant: {{site: 0/2/attn_out, fault: tokens shifted by one}}
inputs:
  prompts: {{dataset: ../prompts.jsonl, limit: {limit}}}
falsification_tests:
- id: FALSIFY-A-1
  rule: how attention is computed does not change the answer
  require: PARTIAL
  check: {{kind: rate, subject: subject, {rest}}}
- id: FALSIFY-A-2
  rule: the same of code that is broken
  require: PARTIAL
  check: {{kind: rate, subject: broken, {rest}}}
"""
REST = "oracle: oracle, inputs: [prompts], outcome: argmax, expect: {rate: {max: 0.15}}"
AT_ONCE = "import pytest_falsify._progress\npytest_falsify._progress.QUIET_SECONDS = 0.0\n"
"""A survey of seconds tells how far it is as one of minutes would."""
COMMAND = (sys.executable, "-m", "pytest", "--falsify", "contracts", "-p", "no:cacheprovider")


@pytest.fixture
def written(project, root, qwen2_tiny):
    """Write the contract, about some of the prompts that ship with the repository."""
    project.file("prompts.jsonl", (root / "fixtures" / "prompts.jsonl").read_text("utf-8"))

    def write(*, limit=26, rest=REST):
        text = CONTRACT.format(model=qwen2_tiny, limit=limit, rest=rest)
        project.file("contracts/one.yaml", text)

    return write


def observed(ran, falsifier):
    block = json.loads(ran.ledgers["C-ONE"])["falsifiers"][falsifier]
    return block["evidence"][0]["observed"]


def test_honest_code_holds_and_a_planted_fault_is_found_alone_and_with_workers(project, written):
    written()
    alone = project.run("contracts")
    (project.path / "evidence" / "C-ONE.json").unlink()
    shared = project.run("contracts", "-n", "2")

    assert alone.outcomes == shared.outcomes == {"passed": 1, "failed": 1}
    assert alone.statuses() == {"FALSIFY-A-1": "PARTIAL", "FALSIFY-A-2": "FALSIFIED"}
    assert alone.ledgers == shared.ledgers
    for ran in (alone, shared):
        ran.result.stdout.fnmatch_lines(
            [
                "*refuted: * of 26 (*) prompts differ, beyond 0.15*",
                "  tokens * prompts  differ   rate  interval *",
                "  all * 26 *",
                "  first difference: token 1 in *",
                "  differing: docs-0*",
                "  one of them: pytest-falsify prompt 'contracts/one.yaml::FALSIFY-A-2[[]here]' d*",
            ]
        )
        assert "/26 prompts" not in ran.text  # nobody looks at a terminal
    honest = observed(alone, "FALSIFY-A-1")
    assert honest["rate"] | {"high": 0} == {
        "differing": 0,
        "prompts": 26,
        "share": 0.0,
        "low": 0.0,
        "high": 0,
    }
    assert (honest["resumed"], honest["unjudged"]) == (0, 0)
    assert list((project.path / ".falsify" / "outcomes").glob("*.jsonl")) == []


def test_a_line_that_is_no_prompt_is_an_error_at_its_place(project, written):
    written(limit=3)
    project.file("prompts.jsonl", '{"prompt": "fine"}\n{"promt": "misspelt"}\n')
    ran = project.run("contracts", "-k", "A-1")
    assert ran.outcomes == {"errors": 1}
    ran.result.stdout.fnmatch_lines(["prompts.jsonl:2: the line has no prompt"])


def test_a_killed_run_goes_on_where_it_was_and_a_terminal_is_told_how_far(project, written):
    written(limit=120)
    project.file("conftest.py", AT_ONCE)
    seen = _kill_when(project, count=10)
    assert 10 <= seen < 120

    code, told = _on_a_terminal(project, "-k", "A-1")

    assert code == 0, told
    (ledger,) = (project.path / "evidence").glob("*.json")
    evidence = json.loads(ledger.read_text())["falsifiers"]["FALSIFY-A-1"]["evidence"][0]
    assert seen <= evidence["observed"]["resumed"] <= seen + 1
    assert evidence["observed"]["rate"]["prompts"] == 120
    assert list((project.path / ".falsify" / "outcomes").glob("*.jsonl")) == []
    lines = re.findall(r"\rFALSIFY-A-1: (\d+)/120 prompts, (\d+) differ, upper bound \S+ %", told)
    assert lines
    assert seen < max(int(done) for done, _ in lines) <= 120
    assert re.search(r"\r +\r\S*\.", told)  # and taken away


def _outcomes(project):
    files = list((project.path / ".falsify" / "outcomes").glob("*.jsonl"))
    return sum(each.read_bytes().count(b"\n") for each in files)


def _kill_when(project, *, count):
    """Kill a run when it has seen some prompts, and return how many are on disk."""
    command = [*COMMAND, "-k", "A-1"]
    with subprocess.Popen(
        command, cwd=project.path, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 60
        while _outcomes(project) < count and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    return _outcomes(project)


def _on_a_terminal(project, *arguments):
    """Run pytest on a terminal, and return its status and all that it wrote there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=project.path, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        told = b""
        while chunk := _read(ours):
            told += chunk
    os.close(ours)
    return process.returncode, told.decode()


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # on Linux this is how the other end's closing is told
        return b""
