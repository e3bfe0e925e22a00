"""Whatever a session comes to alone it comes to with workers: status, ledgers and what is told.

Each scene puts many cases into one project, so that two sessions compare them all. What the cases
come to is asserted one by one in the files about them, on sessions without workers.
"""

from __future__ import annotations

import datetime as dt

import pytest

PROSE = """
metadata: {id: C-PROSE}
falsification_tests:
- {id: FALSIFY-P-1, rule: in words only}
- {id: FALSIFY-P-2, rule: by a node id, test: "test_it.py::test_named"}
- {id: FALSIFY-P-3, rule: by a mark that holds}
- {id: FALSIFY-P-4, rule: by a mark that does not hold}
- {id: FALSIFY-P-5, rule: by a test that shows nothing}
- {id: FALSIFY-P-6, rule: by a test that breaks after it}
- {id: FALSIFY-P-7, rule: by a command that fails, test: "ls nowhere"}
- {id: FALSIFY-P-8, rule: by a command, test: "ls contracts"}
- {id: FALSIFY-P-9, rule: by a test that is not selected}
"""
BOUND = """
import pytest

def test_named():
    assert sum((1, 1)) == 2

@pytest.mark.falsifies("FALSIFY-P-3")
def test_holds():
    assert sum((1, 1)) == 2

@pytest.mark.falsifies("FALSIFY-P-4", contract="C-PROSE")
def test_does_not_hold():
    assert sum((1, 1)) == 3

@pytest.mark.falsifies("FALSIFY-P-5")
def test_shows_nothing():
    pass

@pytest.fixture
def broken():
    yield
    raise OSError("a fixture broke")

@pytest.mark.falsifies("FALSIFY-P-6")
def test_breaks_after_it(broken):
    assert sum((1, 1)) == 2

@pytest.mark.falsifies("FALSIFY-P-9")
def test_not_selected():
    assert sum((1, 1)) == 2

@pytest.mark.falsifies("FALSIFY-P-33")
def test_unknown():
    assert sum((1, 1)) == 2
"""
BROKEN = """
@pytest.fixture(autouse=True)
def breaks(request):
    yield
    if request.node.name.startswith("FALSIFY-A-7"):
        raise OSError("a fixture broke")
"""
WAIVER = """
[[waiver]]
contract = "C-ONE"
falsifier = "FALSIFY-A-1"
who = "ada"
why = "the kernel is being rewritten"
until = {until}
"""
EXPECTED = "C-ONE::FALSIFY-A-3[here]\ncontracts/one.yaml::FALSIFY-A-2[here]\n"
SCENES = {
    "commands": ("--falsify-allow-commands",),
    "strict": ("--falsify-strict", "--falsify-ledger=off"),
    "check": ("--falsify-ledger=check",),
    "gate": (
        "--falsify-gate=FUNCTIONAL",
        "--falsify-require-lane=cpu",
        "--falsify-require-lane=gpu",
        "--falsify-require-lane=live",
        "--falsify-expected-blocked=blocked.txt",
    ),
}


@pytest.fixture
def everything(project):
    project.contract(*(f"FALSIFY-A-{number}" for number in range(1, 8)))
    project.contract("FALSIFY-A-1", name="twin")
    text = (project.path / "contracts/one.yaml").read_text().replace("C-ONE", "C-GPU")
    project.file("contracts/gpu.yaml", text.replace("device: cpu", "device: cuda:99"))
    project.file("contracts/prose.yaml", PROSE)
    project.file("contracts/model.yaml", text.replace("C-GPU", "C-MODEL"))
    project.captures(FALSIFY_A_2=0.5, FALSIFY_A_3="blocked", FALSIFY_A_4="nan", FALSIFY_A_5="empty")
    with (project.path / "conftest.py").open("a") as file:
        file.write(BROKEN)
    project.file("test_it.py", BOUND)
    until = dt.datetime.now(tz=dt.UTC).date() + dt.timedelta(days=1)
    project.file("falsify-waivers.toml", WAIVER.format(until=until))
    project.file("blocked.txt", EXPECTED)
    return project


@pytest.mark.parametrize("scene", SCENES)
def test_a_session_with_workers_comes_to_the_same(everything, scene):
    arguments = ("contracts", "test_it.py", "-rsEf", "--tb=no", "-W", "default", *SCENES[scene])
    chosen = ("-k", "not test_not_selected")
    if scene == "check":
        everything.run("contracts", "test_it.py", *chosen)
        everything.captures(FALSIFY_A_1=0.5, FALSIFY_A_3="blocked")

    alone = everything.run(*arguments, *chosen)
    if scene != "check":
        _forget(everything.path)
    workers = everything.run(*arguments, *chosen, "-n", "2")

    assert alone.result.ret == workers.result.ret == 1
    assert alone.outcomes == workers.outcomes
    assert alone.ledgers == workers.ledgers
    assert _told(alone.text) == _told(workers.text)


def _forget(folder):
    for name in ("evidence", ".falsify/runs"):
        for each in (folder / name).glob("*"):
            each.unlink()


def _told(text):
    """What is told at the end, in any order, for workers finish in any order."""
    summary = text.partition("= falsify =")[2]
    lines = [line for line in summary.splitlines() if not line.startswith("=")]
    assert any("C-ONE  ledger" in line for line in lines)
    assert any(line.startswith("FAILED ") for line in lines)
    return sorted(lines)
