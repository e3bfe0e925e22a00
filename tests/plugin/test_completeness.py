"""A run that lost something promotes nothing and does not end as a success."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("workers", [("-n", "2"), ("-n", "1")], ids=["workers-2", "workers-1"])
def test_a_crashed_worker_promotes_nothing(project, workers):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2", "FALSIFY-A-3")
    project.captures(FALSIFY_A_2="crash")

    ran = project.run("contracts", *workers)

    assert ran.result.ret != 0
    assert set(ran.statuses().values()) == {"UNTRIED"}
    ran.result.stdout.fnmatch_lines(["incomplete: *; nothing was promoted"])


def test_a_worker_that_cannot_send_its_report_ends_with_status_3(project):
    # pytest-xdist issue 1017: it ends such a run with status 0.
    project.contract("FALSIFY-A-1")
    project.captures()
    with (project.path / "conftest.py").open("a") as file:
        file.write(
            "\n@pytest.hookimpl(wrapper=True)\n"
            "def pytest_runtest_makereport(item, call):\n"
            "    report = yield\n"
            "    report.unsendable = object()\n"
            "    return report\n"
        )

    ran = project.run("contracts", "-n", "1")

    assert ran.result.ret == 3
    assert set(ran.statuses().values()) == {"UNTRIED"}


def test_a_refutation_counts_even_when_the_run_was_stopped(project, workers):
    project.contract(*(f"FALSIFY-A-{number}" for number in range(60)))
    project.captures(FALSIFY_A_2=0.5)

    ran = project.run("contracts", "-x", *workers)

    assert ran.result.ret != 0
    assert ran.statuses()["FALSIFY-A-2"] == "FALSIFIED"
    assert "PARTIAL" not in ran.statuses().values()


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "--setup-only"])
def test_a_dry_run_writes_nothing(project, option):
    project.contract("FALSIFY-A-1")
    project.captures()

    ran = project.run("contracts", option)

    assert ran.result.ret == 0
    assert ran.ledgers == {}
    assert not (project.path / ".falsify").exists()


def test_what_was_not_selected_keeps_its_evidence(project, workers):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2")
    project.captures()
    before = project.run("contracts").ledgers

    ran = project.run("contracts", "-k", "FALSIFY-A-2", *workers)

    assert ran.outcomes["passed"] == 1
    assert ran.ledgers == before
