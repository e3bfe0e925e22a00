"""What lint finds is a warning for each contract, in a run and not in a listing."""

from __future__ import annotations

import pytest

DRIFT = "metadata: {id: C-ONE}\nfalsification_tests:\n- {id: FALSIFY-A-1, test: run it by hand}\n"
WARNED = "contracts/one.yaml: lint finds 1 warnings: pytest-falsify lint contracts/one.yaml"


@pytest.fixture
def drifted(project):
    project.file("contracts/one.yaml", DRIFT)
    return project


def test_a_run_warns_once_with_the_command(drifted):
    ran = drifted.run("contracts", "-W", "default")

    assert ran.text.count(WARNED) == 1
    assert ran.result.ret == 0


def test_a_listing_does_not_ask_lint(drifted):
    assert "lint finds" not in drifted.run("contracts", "-W", "default", "--collect-only").text


def test_those_who_want_it_have_an_error(drifted):
    ran = drifted.run("contracts", "-W", "error::pytest_falsify.FalsifyWarning")

    assert ran.result.ret == pytest.ExitCode.USAGE_ERROR
    assert WARNED in ran.text
