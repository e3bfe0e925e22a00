"""Falsifiers that share captures stay on one worker; lost workers and busy devices are survived."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from pytest_falsify._device import device_in_use, lock_path
from pytest_falsify._xdist import capture_group
from pytest_falsify.contracts.model import Target

IDS = [f"FALSIFY-A-{number}" for number in range(8)]
SHOW_WORKER = """
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    if report.when == "call" and hasattr(report, "node"):
        print("RAN", report.node.gateway.id, report.nodeid)
"""
SLOW = """
@pytest.fixture(autouse=True)
def slow():
    import time
    time.sleep(0.1)
"""


def _workers_of(ran, pattern):
    found = re.findall(rf"RAN (gw\d+) (\S*{pattern}\S*)", ran.text)
    return {worker for worker, _ in found}, len(found)


def _append(project, text):
    with (project.path / "conftest.py").open("a") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [("contracts/a.yaml::FALSIFY-A-1[tiny]", "contracts/a.yaml[tiny]"),
     ("contracts/a.yml::FALSIFY-A-1[big]", "contracts/a.yml[big]"),
     ("contracts/a.yaml::FALSIFY-A-1", "contracts/a.yaml::FALSIFY-A-1"),
     ("tests/test_a.py::test_it[tiny]", "tests/test_a.py::test_it[tiny]")],
)  # fmt: skip
def test_a_group_is_a_contract_on_a_target(nodeid, group):
    assert capture_group(nodeid) == group


@pytest.mark.parametrize("count", ["2", "4"])
def test_each_contract_stays_on_one_worker(project, count):
    for name in ("one", "two", "three"):
        project.contract(*IDS, contract_id=f"C-{name.upper()}", name=name)
    project.captures()
    _append(project, SHOW_WORKER + SLOW)

    ran = project.run("contracts", "-n", count, "-s")

    used = [_workers_of(ran, f"{name}.yaml") for name in ("one", "two", "three")]
    assert [(len(workers), items) for workers, items in used] == [(1, 8)] * 3
    assert len(set.union(*(workers for workers, _ in used))) > 1


def test_another_distribution_is_left_to_the_user(project):
    project.contract(*IDS)
    project.captures()
    _append(project, SHOW_WORKER + SLOW)

    ran = project.run("contracts", "-n", "2", "--dist", "worksteal", "-s")

    assert _workers_of(ran, "one.yaml") == ({"gw0", "gw1"}, 8)


def test_ordinary_tests_beside_falsifiers_are_spread(project):
    project.contract(*IDS)
    project.captures()
    project.file(
        "test_mine.py",
        """
        import time, pytest

        @pytest.mark.parametrize("n", range(12))
        def test_it(n):
            time.sleep(0.05)
        """,
    )
    _append(project, SHOW_WORKER)

    ran = project.run("contracts", "test_mine.py", "-n", "2", "-s")

    assert ran.outcomes == {"passed": 20}
    assert _workers_of(ran, "test_mine.py") == ({"gw0", "gw1"}, 12)


def test_the_ledger_is_the_same_with_any_number_of_workers(project):
    for name in ("one", "two", "three"):
        project.contract(*IDS, contract_id=f"C-{name.upper()}", name=name)
    project.captures(FALSIFY_A_1=0.5, FALSIFY_A_2=1e-4, FALSIFY_A_3="blocked", FALSIFY_A_4="nan")
    seen = []
    for count in ("0", "2", "4"):
        ran = project.run("contracts", "-n", count)
        seen.append((ran.result.ret, ran.outcomes, ran.ledgers))
        for each in (project.path / "evidence").iterdir():
            each.unlink()

    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0][2]) == 3


@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_crash_costs_one_item_and_the_others_still_run(project, at):
    project.contract(*IDS)
    project.captures(**{f"FALSIFY_A_{at}": "crash"})

    ran = project.run("contracts", "-n", "2")

    assert ran.result.ret == 3
    assert ran.outcomes == {"passed": 7, "failed": 1}
    assert ran.text.count("replacing crashed worker") == 1
    assert set(ran.statuses().values()) == {"UNTRIED"}


def test_every_item_may_crash_and_the_session_still_ends(project):
    for name in ("one", "two"):
        project.contract(*IDS[:2], contract_id=f"C-{name.upper()}", name=name)
    project.captures(**{each.replace("-", "_"): "crash" for each in IDS})

    ran = project.run("contracts", "-n", "2")

    assert ran.result.ret == 3
    assert ran.outcomes == {"failed": 4}


@pytest.mark.parametrize("count", ["1", "2"])
def test_after_a_crash_single_tests_that_are_left_are_handed_out(project, count):
    # A replaced worker that gets one test, and no word that it is the last, would wait for ever.
    project.contract("FALSIFY-A-0")
    project.captures()
    project.file(
        "test_mine.py",
        """
        import os, pytest

        @pytest.mark.parametrize("n", range(9))
        def test_it(n):
            if n in (0, 1):
                os._exit(1)
        """,
    )

    ran = project.run("contracts", "test_mine.py", "-n", count)

    assert ran.result.ret == 3
    assert ran.outcomes == {"passed": 8, "failed": 2}


@pytest.mark.parametrize(
    ("visible", "device", "name"),
    [(None, "cuda:1", "cuda-1"), ("", "cuda", "cuda-0"), ("3,5", "cuda:1", "cuda-5"),
     ("GPU-8a1, GPU-77", "cuda:1", "cuda-GPU-77"), ("3", "cuda:2", "cuda-2")],
)  # fmt: skip
def test_a_device_is_locked_by_what_the_caller_calls_it(visible, device, name):
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}

    assert lock_path(device, Path("locks"), environ) == Path("locks") / f"{name}.lock"


@pytest.mark.parametrize("is_worker", [True, False])
def test_a_worker_has_a_device_alone(request, tmp_path, monkeypatch, is_worker):
    monkeypatch.setattr("pytest_falsify.engines.device.resolve_device", lambda target: "cuda:0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    config = _Config(tmp_path, is_worker=is_worker)
    target = Target(name="big", line=1, model="m", device="cuda")
    lock = tmp_path / ".falsify/locks/cuda-0.lock"
    lock.parent.mkdir(parents=True)

    with device_in_use(target, config) as device:
        assert device == "cuda:0"
        assert _is_held(lock) is is_worker
    assert not _is_held(lock)


class _Config:
    def __init__(self, root, *, is_worker):
        self.inipath = root / "pytest.ini"
        self.rootpath = root
        if is_worker:
            self.workerinput = {}

    def getini(self, name):
        return "evidence"


def _is_held(path):
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def test_workers_take_turns_on_one_device(project):
    for name in ("one", "two"):
        project.contract(*IDS[:3], contract_id=f"C-{name.upper()}", name=name)
        contract = project.path / f"contracts/{name}.yaml"
        contract.write_text(contract.read_text().replace("device: cpu", "device: cuda"))
    project.captures()
    log = project.path / "log.txt"
    _append(
        project,
        f"""
import pytest_falsify.engines.device as device
device.resolve_device = lambda target: "cuda:0"

@pytest.fixture(autouse=True)
def used(falsify_device, request):
    import os, time
    def note(what):
        with open({str(log)!r}, "a") as file:
            file.write(f"{{what}} {{os.getpid()}} {{time.monotonic()}}\\n")
    note("begin")
    time.sleep(0.05)
    yield
    note("end")
""",
    )

    ran = project.run("contracts", "-n", "2")

    assert ran.outcomes == {"passed": 6}
    words = [line.split() for line in log.read_text().splitlines()]
    assert len({pid for _, pid, _ in words}) == 2
    assert [what for what, _, _ in words] == ["begin", "end"] * 6
