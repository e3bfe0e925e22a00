"""What is left of sessions that were killed, and of a disk that refuses."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

SLOW = """
@pytest.fixture(autouse=True)
def slow(request):
    if request.node.name.startswith({first!r}):
        import pathlib, time
        (pathlib.Path(__file__).parent / "asleep").touch()
        time.sleep(60)
"""


def _append(project, text):
    with (project.path / "conftest.py").open("a") as file:
        file.write(text)


def _records(project):
    return sorted((project.path / ".falsify/runs").glob("*.jsonl"))


def _observed(path):
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    found = [each["observation"] for each in lines if each["kind"] == "observation"]
    return {each["falsifier"]: each["evidence"]["outcome"] for each in found}


def _kill_after(project, count, *arguments):
    """Start a session, and kill it with its workers when it has recorded some observations."""
    command = [sys.executable, "-m", "pytest", "--falsify", "contracts", *arguments]
    with subprocess.Popen(
        command, cwd=project.path, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if any(len(_observed(each)) >= count for each in _records(project)):
                break
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    (record,) = _records(project)
    return record


@pytest.fixture
def killed(project, workers):
    """A session that was killed after FALSIFY-A-1 held and FALSIFY-A-2 was refuted."""
    project.contract("FALSIFY-A-1", "FALSIFY-A-2", "FALSIFY-A-3")
    project.captures(FALSIFY_A_2=0.5)
    _append(project, SLOW.format(first="FALSIFY-A-3"))
    record = _kill_after(project, 2, *workers)
    project.captures(FALSIFY_A_2=0.5)
    return record


def test_a_killed_session_writes_no_ledger_and_keeps_what_was_reported(project, killed):
    assert _observed(killed) == {"FALSIFY-A-1": "held", "FALSIFY-A-2": "refuted"}
    assert not (project.path / "evidence").exists()
    assert b"trailer" not in killed.read_bytes()


def test_the_next_session_takes_over_its_refutations_and_no_confirmation(project, killed):
    ran = project.run("contracts", "-k", "FALSIFY-A-3")

    assert ran.result.ret == 0
    assert ran.statuses() == {
        "FALSIFY-A-1": "UNTRIED",
        "FALSIFY-A-2": "FALSIFIED",
        "FALSIFY-A-3": "PARTIAL",
    }
    ran.result.stdout.fnmatch_lines(
        ["note: the session * was killed after 2 observations; 1 refutation of it is in the*"]
    )
    assert json.loads(killed.read_bytes().splitlines()[-1])["recovered"] is True


def test_a_record_is_taken_over_once(project, killed):
    project.run("contracts", "-k", "FALSIFY-A-3")
    project.captures()
    second = project.run("contracts")

    assert second.statuses()["FALSIFY-A-2"] == "FALSIFIED"  # the same digests: no fix was made
    project.captures(version="2")
    assert project.run("contracts").statuses()["FALSIFY-A-2"] == "PARTIAL"
    assert "was killed" not in second.text


@pytest.mark.parametrize("mode", ["check", "off"])
def test_only_a_session_that_updates_takes_over(project, killed, mode):
    before = killed.read_bytes()

    project.run("contracts", f"--falsify-ledger={mode}")

    assert killed.read_bytes() == before


def test_a_record_whose_refutations_cannot_be_folded_stays_for_the_next_session(project, killed):
    ledger = project.path / "evidence/C-ONE.json"
    ledger.parent.mkdir()
    ledger.write_text("{")
    before = killed.read_bytes()

    ran = project.run("contracts", "-k", "FALSIFY-A-3")

    assert ran.result.ret == 1
    assert "denied: a killed session could not be recovered: evidence/C-ONE.json:1" in ran.text
    assert killed.read_bytes() == before
    ledger.unlink()
    assert project.run("contracts", "-k", "A-3").statuses()["FALSIFY-A-2"] == "FALSIFIED"


def test_a_record_that_was_damaged_is_named(project):
    project.contract("FALSIFY-A-1")
    project.captures()
    project.file(".falsify/runs/old.jsonl", "{}\nnot json\n")

    ran = project.run("contracts")

    assert ran.result.ret == 1
    assert "denied: a killed session could not be recovered: .falsify/runs/old.jsonl" in ran.text
    assert "Traceback" not in ran.text


def test_a_killed_worker_ends_the_run_with_status_3_and_promotes_nothing(project):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2", "FALSIFY-A-3")
    project.captures(FALSIFY_A_1=0.5)
    _append(
        project,
        """
@pytest.fixture(autouse=True)
def killed(request):
    if request.node.name.startswith("FALSIFY-A-2"):
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
""",
    )

    ran = project.run("contracts", "-n", "2")

    assert ran.result.ret == 3
    ran.result.stdout.fnmatch_lines(["incomplete: a worker was lost*nothing was promoted"])
    assert ran.statuses() == {
        "FALSIFY-A-1": "FALSIFIED",
        "FALSIFY-A-2": "UNTRIED",
        "FALSIFY-A-3": "UNTRIED",
    }


def test_an_internal_error_ends_with_status_3_and_promotes_nothing(project, workers):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2")
    project.captures()
    _append(
        project,
        """
def pytest_runtest_logreport(report):
    if report.when == "teardown" and "A-2" in report.nodeid:
        raise OSError("a plugin broke")
""",
    )

    ran = project.run("contracts", *workers)

    assert ran.result.ret == 3
    assert ran.ledgers == {}
    assert "PARTIAL" not in ran.text


def test_an_interrupted_session_promotes_nothing_and_ends_its_record(project):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2", "FALSIFY-A-3")
    project.captures(FALSIFY_A_1=0.5)
    _append(project, SLOW.format(first="FALSIFY-A-3"))
    command = [sys.executable, "-m", "pytest", "--falsify", "contracts"]
    # A shell's background commands ignore interrupts, and so would what they start.
    usual = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command,
        cwd=project.path,
        stdout=subprocess.PIPE,
        preexec_fn=usual,  # noqa: PLW1509
    ) as process:
        while not (project.path / "asleep").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out = process.stdout.read().decode()

    assert process.returncode == pytest.ExitCode.INTERRUPTED, out
    assert "nothing was promoted" in out
    ledger = json.loads((project.path / "evidence/C-ONE.json").read_text())
    statuses = [each["status"] for each in ledger["falsifiers"].values()]
    assert statuses == ["FALSIFIED", "UNTRIED", "UNTRIED"]
    (record,) = _records(project)
    assert json.loads(record.read_bytes().splitlines()[-1])["complete"] is False


def test_a_stopped_run_keeps_its_status(project):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2")
    project.captures(FALSIFY_A_1=0.5)

    assert project.run("contracts", "-x").result.ret == 1


def test_the_last_twenty_complete_records_are_kept(project):
    project.contract("FALSIFY-A-1")
    project.captures()
    project.run("contracts")
    (first,) = _records(project)
    text = first.read_text()
    for number in range(30):
        copy = first.with_name(f"old{number:02d}.jsonl")
        copy.write_text(text)
        copy.with_suffix(".lock").touch()
        os.utime(copy, (number, number))
    unfinished = first.with_name("ended.jsonl")
    unfinished.write_text(text.replace('"complete":true', '"complete":false'))
    os.utime(unfinished, (0, 0))

    project.run("contracts")

    names = {each.name for each in _records(project)}
    (new,) = names - {
        first.name,
        "ended.jsonl",
        *(f"old{number:02d}.jsonl" for number in range(30)),
    }
    newest = {f"old{number:02d}.jsonl" for number in range(12, 30)}
    assert names == {new, first.name, "ended.jsonl", *newest}
    assert not first.with_name("old11.lock").exists()


def test_what_belongs_to_this_machine_alone_stays_out_of_git(project):
    project.contract("FALSIFY-A-1")
    project.captures()
    project.run("contracts")

    assert (project.path / ".falsify/.gitignore").read_text() == "*\n"


def test_a_full_disk_under_the_run_record_is_told_and_promotes_nothing(project):
    project.contract(*(f"FALSIFY-A-{number}" for number in range(9)))
    project.captures()

    ran = _limited(project, size=4000)

    assert ran.returncode == 3
    assert "the run record could not be written" in ran.stdout
    assert "nothing was promoted" in ran.stdout
    assert "Traceback" not in ran.stdout + ran.stderr
    ledger = project.path / "evidence/C-ONE.json"
    assert not ledger.exists() or "PARTIAL" not in ledger.read_text()


def _limited(project, *, size):
    """Run with files that cannot grow beyond a size, as on a full disk."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    command = [sys.executable, "-B", "-m", "pytest", "--falsify", "contracts"]
    return subprocess.run(
        command, cwd=project.path, capture_output=True, text=True, check=False, preexec_fn=limit
    )


def test_a_full_disk_under_the_ledger_leaves_the_old_one(project):
    project.contract(*(f"FALSIFY-A-{number}" for number in range(2)))
    project.captures()
    before = project.run("contracts").ledgers["C-ONE"]
    for each in _records(project):
        each.unlink()
    project.contract(*(f"FALSIFY-A-{number}" for number in range(9)))

    ran = _limited(project, size=len(before))

    assert ran.returncode != 0
    assert (project.path / "evidence/C-ONE.json").read_text() == before
    assert "Traceback" not in ran.stdout + ran.stderr
    assert re.search(r"could not be written", ran.stdout)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(lambda text: text.replace('"PARTIAL"', '"DISCHARGED"'), "the status of FALSIFY-A-1 is"),
     (lambda text: "<<<<<<< ours\n" + text, "conflict markers"),
     (lambda text: text[: len(text) // 2], "not JSON"),
     (lambda text: text.replace('"contract"', '"schema": 1,\n  "contract"', 1), "stands twice"),
     (lambda text: text.replace('"outcome": "held"', '"outcome": "refuted"'), "does not match")],
    ids=["edited", "conflict", "truncated", "duplicate", "evidence"],
)  # fmt: skip
def test_a_spoilt_ledger_is_named_and_left_alone(project, spoil, words):
    project.contract("FALSIFY-A-1")
    project.captures()
    project.run("contracts")
    ledger = project.path / "evidence/C-ONE.json"
    ledger.write_text(spoil(ledger.read_text()))
    before = ledger.read_text()

    for arguments in (["--falsify-ledger=update"], ["--falsify-ledger=check"], ["--falsify-gate"]):
        ran = project.run("contracts", *arguments)
        assert ran.result.ret == 1
        assert re.search(rf"denied: evidence/C-ONE\.json:\d+: .*{words}", ran.text)
        assert "Traceback" not in ran.text
    assert ledger.read_text() == before
