"""Whole sessions that are killed, short of disk, or writing at once; without a model.

Part of ``bench_reliability.py``. Each bench returns whether its promise was kept, and the figures.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

from pytest_falsify.canonical import digest
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.ledger.journal import read_run
from pytest_falsify.ledger.verify import verify_folder

CONTRACTS, FALSIFIERS = 3, 6
SELECTED = CONTRACTS * FALSIFIERS
CONTRACT = """
metadata: {{id: {id}}}
targets: {{here: {{model: ./model, device: cpu, level: algorithm}}}}
captures:
  oracle: {{engine: transformers, dtype: float32}}
  subject: {{engine: transformers, dtype: float32, attention: sdpa}}
inputs: {{prompt: {{tokens: [1, 2, 3, 4, 5]}}}}
falsification_tests:
"""
ENTRY = """
- id: {id}
  rule: the subject agrees with the oracle
  require: PARTIAL
  check: {{kind: parity, subject: subject, oracle: oracle, expect: {{rel_l2: {{max: 1e-3}}}}}}
"""
# The last falsifier of each contract is refuted. What the controller has taken, it also tells.
CONFTEST = """
import os
import time

import numpy as np
import pytest

from pytest_falsify.captures.capture import Capture, CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.stages.vocabulary import Site


@pytest.fixture
def falsify_capture(request):
    is_wrong = request.node.claim.falsifier.id.endswith("-5")

    def make(capture, inputs, **asked):
        time.sleep(0.01)
        values = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)
        values = values * np.float32(1.5 if is_wrong and capture == "subject" else 1)
        tensor = CapturedTensor(array=values, dims="t d", positions=tuple(range(5)))
        return Capture(
            identity=Identity(
                engine="mine", versions={"mine": "1"}, weights="w",
                settings={"capture": capture}, device="cpu",
            ),
            inputs=TokenInputs(name=inputs, tokens=(1, 2, 3, 4, 5)),
            plan=Plan(stages=("embedding",)),
            tensors={Site(0, None, "embedding"): tensor},
            logits=(values,),
        )

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_logreport(report):
    yield
    if "PYTEST_XDIST_WORKER" not in os.environ and report.when == "teardown":
        with open("told.txt", "a") as file:
            file.write(report.nodeid + "\\n")
"""


def write_project(folder: Path) -> None:
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:randomly -p no:cacheprovider\n")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "contracts").mkdir()
    for number in range(CONTRACTS):
        ids = [f"FALSIFY-{number}-{each}" for each in range(FALSIFIERS)]
        text = CONTRACT.format(id=f"C-{number}") + "".join(ENTRY.format(id=each) for each in ids)
        (folder / f"contracts/{number}.yaml").write_text(textwrap.dedent(text))


def session(folder: Path, machine: str, *arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "pytest", "-q", "--falsify", "contracts", *arguments]
    environ = {**os.environ, "FALSIFY_MACHINE": machine, "OMP_NUM_THREADS": "1"}
    environ.pop("CI", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
    return subprocess.Popen(
        command, cwd=folder, env=environ, start_new_session=True, text=True, **pipes
    )


def kill_sessions(count: int, seed: int) -> tuple[bool, str]:
    """Kill sessions of two workers at random moments, and look at what they leave."""
    with tempfile.TemporaryDirectory() as name:
        killing = Killing(Path(name), random.Random(seed))
        for number in range(count):
            killing.kill_one(f"m{number}")
        killing.finish()
    return killing.is_kept, killing.words(count)


class Killing:
    """A project whose sessions are killed, and what is owed to it."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self.folder, self.dice = folder, dice
        self.unreadable = self.lost = self.unpromised = self.wrong_status = 0
        self.ended = self.interrupted = self.reported = 0
        self.owed: set[tuple[str, str]] = set()
        write_project(folder)
        session(folder, "cold", "-n", "2").communicate()
        begun = time.perf_counter()
        session(folder, "warm", "-n", "2").communicate()
        self.seconds = time.perf_counter() - begun
        self._reset()

    @property
    def is_kept(self) -> bool:
        return not (self.unreadable or self.lost or self.unpromised or self.wrong_status)

    def words(self, count: int) -> str:
        return (
            f"{count} SIGKILLs of a run of {self.seconds:.1f} s with -n 2 ({self.interrupted} hit "
            f"it running, {self.reported} reports taken before): {self.unreadable} ledgers "
            f"unreadable, {self.lost} reports lost, {self.unpromised} promotions of incomplete runs"
        )

    def kill_one(self, machine: str) -> None:
        known = set(self._records())
        (self.folder / "told.txt").unlink(missing_ok=True)
        process = session(self.folder, machine, "-n", "2")
        time.sleep(self.dice.uniform(0, self.seconds * 1.1))
        is_running = process.poll() is None
        self.interrupted += is_running
        self._kill(process)
        process.communicate()
        self._look(machine, set(self._records()) - known, process.returncode)

    def _kill(self, process: subprocess.Popen) -> None:
        """Kill the session with its workers, the controller alone, or one worker alone."""
        how = self.dice.choice(["all", "controller", "worker"])
        workers = children_of(process.pid)
        try:
            if how == "all":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                victim = self.dice.choice(workers) if how == "worker" and workers else process.pid
                os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _look(self, machine: str, records: set[Path], status: int) -> None:
        ledgers, problems = verify_folder(self.folder / "evidence")
        self.unreadable += len(problems)
        told = self._told()
        self.reported += len(told)
        seen = [each for path in records for each in read_run(path).observations()]
        self.lost += len(told - {(each.contract, each.falsifier) for each in seen})
        refuted = {each.evidence.id for each in seen if each.evidence.outcome is Outcome.REFUTED}
        self.owed |= refuted
        named = digest(["pytest-falsify machine 1", "named", machine])
        on_file = [
            each
            for ledger in ledgers.values()
            for block in ledger.blocks.values()
            for each in block.evidence
        ]
        is_promoted = any(
            each.outcome is Outcome.HELD and each.machine == named for each in on_file
        )
        self.unpromised += is_promoted and len(seen) < SELECTED
        self.wrong_status += status == 0
        if is_promoted:
            self._settle({each.id for each in on_file})

    def _told(self) -> set[tuple[str, str]]:
        path = self.folder / "told.txt"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        parts = [line.partition("::") for line in lines]
        return {(f"C-{Path(file).stem}", name.partition("[")[0]) for file, _, name in parts}

    def _settle(self, on_file: set[str]) -> None:
        """After a session that ended, everything that was refuted before is on file; begin anew."""
        self.ended += 1
        self.lost += len(self.owed - on_file)
        self._reset()

    def _reset(self) -> None:
        self.owed = set()
        for each in [*self._records(), *(self.folder / "evidence").glob("*.json")]:
            each.unlink()

    def finish(self) -> None:
        session(self.folder, "last", "-n", "2").communicate()
        ledgers, problems = verify_folder(self.folder / "evidence")
        self.unreadable += len(problems)
        self._settle(
            {
                each.id
                for ledger in ledgers.values()
                for block in ledger.blocks.values()
                for each in block.evidence
            }
        )

    def _records(self) -> list[Path]:
        return sorted((self.folder / ".falsify/runs").glob("*.jsonl"))


def children_of(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(each) for each in text.split()]


@contextmanager
def small_disk(size: str):
    """A disk of its own, where the system lets us mount one."""
    with tempfile.TemporaryDirectory() as name:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", name]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            yield None
            return
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def disk_full() -> tuple[bool, str]:
    """Run where only some KiB are left: the old ledgers stay, and nothing passes unrecorded."""
    wrong, tried, refused = [], 0, 0
    for left in (0, 4, 8, 12, 16, 20, 24, 32, 48):
        with small_disk("512k") as folder:
            if folder is None:
                return False, "nothing was tried: a tmpfs cannot be mounted here"
            write_project(folder)
            session(folder, "a", "-k", "FALSIFY-0").communicate()
            before = ledgers_in(folder)
            fill(folder, left << 10)
            process = session(folder, "b")
            out, _ = process.communicate()
            tried += 1
            refused += process.returncode != 1 or "denied: " in out
            wrong += [f"{left} KiB: {each}" for each in spoilt(folder, before, process, out)]
    return not wrong, f"{tried} sizes, {refused} told; {'; '.join(wrong) or 'old ledgers intact'}"


def fill(folder: Path, left: int) -> None:
    stat = os.statvfs(folder)
    size = stat.f_bavail * stat.f_frsize - left
    with (folder / "filler").open("wb") as file:
        file.write(b"x" * max(0, size))


def spoilt(folder: Path, before: dict[str, bytes], process, out: str) -> list[str]:
    """What is wrong after a session that could not write all it wanted."""
    _, problems = verify_folder(folder / "evidence")
    found = [str(each) for each in problems]
    found += [f"{name} is gone" for name in before if name not in ledgers_in(folder)]
    if process.returncode == 0:
        found.append("it passed")
    if "Traceback" in out:
        found.append("a traceback")
    record_failed = "the run record could not be" in out
    fresh = {name: data for name, data in ledgers_in(folder).items() if name not in before}
    statuses = [each["status"] for data in fresh.values() for each in falsifiers_in(data)]
    if record_failed and "PARTIAL" in statuses:
        found.append("an incomplete run was promoted")
    return found


def falsifiers_in(data: bytes) -> list[dict]:
    return list(json.loads(data)["falsifiers"].values())


def ledgers_in(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in (folder / "evidence").glob("*.json")}


def read_only() -> tuple[bool, str]:
    """Run on ledgers that cannot be written: they stay, and the error names them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder)
        session(folder, "a", "-k", "FALSIFY-0").communicate()
        before = ledgers_in(folder)
        command = [
            "mount",
            "--bind",
            "-o",
            "ro",
            str(folder / "evidence"),
            str(folder / "evidence"),
        ]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return False, "nothing was tried: the ledgers cannot be made read-only here"
        try:
            out, _ = (process := session(folder, "b")).communicate()
        finally:
            subprocess.run(["umount", "-l", str(folder / "evidence")], check=True)
        is_told = "the ledger could not be written: Read-only file system" in out
        is_kept = process.returncode == 1 and is_told and "Traceback" not in out
        return is_kept and ledgers_in(
            folder
        ) == before, f"status {process.returncode}, told, intact"


def together(rounds: int = 5) -> tuple[bool, str]:
    """Two sessions record different falsifiers of the same ledgers at once."""
    lost = 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_project(folder)
            halves = ("0-0 or 1-0 or 2-0 or -1 or -2", "-3 or -4 or -5")
            running = [
                session(folder, name, "-k", half) for name, half in zip("ab", halves, strict=True)
            ]
            for process in running:
                process.communicate()
            statuses = [
                each["status"]
                for data in ledgers_in(folder).values()
                for each in falsifiers_in(data)
            ]
            lost += SELECTED - len(statuses) + statuses.count("UNTRIED")
    return not lost, f"{rounds} pairs of sessions, {lost} of {rounds * SELECTED} statuses lost"
