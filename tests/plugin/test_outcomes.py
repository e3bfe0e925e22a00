"""What an item's outcome is, and what becomes of it in the ledger."""

from __future__ import annotations

import pytest


def test_what_holds_passes_and_is_partial_on_an_algorithm_target(project):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2")
    project.captures()

    ran = project.run("contracts")

    assert ran.result.ret == 0
    assert ran.outcomes == {"passed": 2}
    assert ran.statuses() == {"FALSIFY-A-1": "PARTIAL", "FALSIFY-A-2": "PARTIAL"}


def test_what_holds_on_a_live_target_is_functional(project):
    project.contract("FALSIFY-A-1", level="live")
    project.captures(FALSIFY_A_1=1e-4)

    assert project.run("contracts").statuses() == {"FALSIFY-A-1": "FUNCTIONAL"}


def test_what_is_refuted_fails_and_is_falsified(project):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2")
    project.captures(FALSIFY_A_1=0.5)

    ran = project.run("contracts")

    assert ran.result.ret == 1
    assert ran.outcomes == {"failed": 1, "passed": 1}
    assert ran.statuses() == {"FALSIFY-A-1": "FALSIFIED", "FALSIFY-A-2": "PARTIAL"}
    ran.result.stdout.fnmatch_lines(["contracts/one.yaml:11: refuted: *0/-/embedding*"])


@pytest.mark.parametrize(
    ("fault", "outcome", "status"),
    [("nan", "failed", "FALSIFIED"), ("empty", "skipped", "UNTRIED")],
)
def test_nan_and_nothing_compared_are_never_a_pass(project, fault, outcome, status):
    project.contract("FALSIFY-A-1")
    project.captures(FALSIFY_A_1=fault)

    ran = project.run("contracts")

    assert ran.outcomes == {outcome: 1}
    assert ran.statuses() == {"FALSIFY-A-1": status}


def test_what_is_absent_skips_with_its_remedy_and_is_blocked(project):
    project.contract("FALSIFY-A-1")
    project.captures(FALSIFY_A_1="blocked")

    ran = project.run("contracts", "-rs")

    assert ran.result.ret == 0
    assert ran.outcomes == {"skipped": 1}
    assert ran.statuses() == {"FALSIFY-A-1": "BLOCKED"}
    ran.result.stdout.fnmatch_lines(["SKIPPED * there is no such thing here; to mend: bring it"])


@pytest.mark.parametrize("fault", ["blocked", "empty"])
def test_strict_turns_blocked_and_inconclusive_into_failures(project, fault):
    project.contract("FALSIFY-A-1")
    project.captures(FALSIFY_A_1=fault)

    ran = project.run("contracts", "--falsify-strict")

    assert ran.result.ret == 1
    assert "passed" not in ran.outcomes
    assert "skipped" not in ran.outcomes


def test_an_entry_without_a_check_is_listed_untried_and_says_what_it_lacks(project):
    project.contract("FALSIFY-A-1")
    with (project.path / "contracts/one.yaml").open("a") as file:
        file.write("- {id: FALSIFY-A-2, rule: prose, test: run it by hand}\n")
    project.captures()

    ran = project.run("contracts", "-rs")

    assert ran.outcomes == {"passed": 1, "skipped": 1}
    assert ran.statuses()["FALSIFY-A-2"] == "UNTRIED"
    ran.result.stdout.fnmatch_lines(["SKIPPED * UNTRIED: its `test:` is prose*"])


def test_a_broken_teardown_takes_the_confirmation_back(project):
    project.contract("FALSIFY-A-1")
    project.captures()
    with (project.path / "conftest.py").open("a") as file:
        file.write("\n@pytest.fixture(autouse=True)\ndef broken():\n    yield\n    raise OSError\n")

    ran = project.run("contracts")

    assert ran.result.ret == 1
    assert ran.statuses() == {"FALSIFY-A-1": "UNTRIED"}


def test_a_broken_teardown_does_not_hide_a_refutation(project):
    project.contract("FALSIFY-A-1")
    project.captures(FALSIFY_A_1=0.5)
    with (project.path / "conftest.py").open("a") as file:
        file.write("\n@pytest.fixture(autouse=True)\ndef broken():\n    yield\n    raise OSError\n")

    assert project.run("contracts").statuses() == {"FALSIFY-A-1": "FALSIFIED"}


def test_an_error_that_is_ours_keeps_its_traceback(project):
    project.contract("FALSIFY-A-1")
    project.captures()
    with (project.path / "conftest.py").open("a") as file:
        file.write("\n@pytest.fixture\ndef falsify_compare():\n    return lambda a, b: 1 / 0\n")

    ran = project.run("contracts")

    assert ran.outcomes == {"failed": 1}
    assert "ZeroDivisionError" in ran.text
    assert ran.statuses() == {"FALSIFY-A-1": "UNTRIED"}


def test_a_refutation_is_told_once_and_listed_in_one_line(project, monkeypatch):
    monkeypatch.setenv("CI", "true")
    project.captures(FALSIFY_A_1=0.5)
    project.contract("FALSIFY-A-1")

    text = project.run("contracts", "--falsify-ledger=off").text

    listed = text.partition("short test summary info")[2]
    assert "FAILED contracts/one.yaml::FALSIFY-A-1[here] - contracts/one.yaml:11: refuted" in listed
    assert "rule: " not in listed
    assert text.count("rule: ") == 1
