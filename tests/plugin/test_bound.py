"""Ordinary tests that are bound to a falsifier are evidence of source `bound`."""

from __future__ import annotations

import json

import pytest

PROSE = """
metadata: {{id: C-ONE}}
falsification_tests:
- id: FALSIFY-A-1
  rule: it adds up
{test}
"""


@pytest.fixture
def bound(project):
    def write(body, *, test="", mark='@pytest.mark.falsifies("FALSIFY-A-1")'):
        project.file("contracts/one.yaml", PROSE.format(test=test))
        project.file("test_it.py", f"import pytest\n\n{mark}\ndef test_sum():\n    {body}\n")
        return project

    return write


@pytest.mark.parametrize(
    ("body", "status"),
    [("assert 1 + 1 == 2", "PARTIAL"), ("assert 1 + 1 == 3", "FALSIFIED")],
)
def test_a_bound_test_confirms_or_refutes(bound, body, status):
    ran = bound(body).run("contracts", "test_it.py")

    assert ran.statuses() == {"FALSIFY-A-1": status}
    block = json.loads(ran.ledgers["C-ONE"])["falsifiers"]["FALSIFY-A-1"]
    assert [(each["source"], each["target"]) for each in block["evidence"]] == [
        ("bound", "test_it.py::test_sum")
    ]


def test_a_node_id_in_the_contract_binds_too(bound):
    project = bound("assert True is not False", test="  test: test_it.py::test_sum", mark="")

    ran = project.run("contracts", "test_it.py", "-rs")

    assert ran.statuses() == {"FALSIFY-A-1": "PARTIAL"}
    assert "it is bound to test_it.py::test_sum" in ran.text


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("pass", "is empty"),
        ('"""Only words."""', "is empty"),
        ("...", "is empty"),
        ("pytest.skip('not today')", "was skipped"),
        ("pytest.xfail('known')", "is expected to fail"),
    ],
)
def test_what_shows_nothing_is_unobserved_and_said(bound, body, why):
    ran = bound(body).run("contracts", "test_it.py")

    assert ran.statuses() == {"FALSIFY-A-1": "UNTRIED"}
    ran.result.stdout.fnmatch_lines([f"note: unobserved: FALSIFY-A-1: test_it.py::test_sum {why}"])


def test_a_deselected_test_did_not_run(bound):
    ran = bound("assert True is not False").run("contracts", "test_it.py", "-k", "FALSIFY")

    assert ran.statuses() == {"FALSIFY-A-1": "UNTRIED"}
    assert "unobserved: FALSIFY-A-1: test_it.py::test_sum did not run" in ran.text


def test_a_broken_teardown_takes_the_confirmation_back(bound):
    project = bound("assert True is not False")
    project.file(
        "conftest.py",
        "import pytest\n\n@pytest.fixture(autouse=True)\ndef broken():\n    yield\n"
        "    raise OSError\n",
    )

    assert project.run("contracts", "test_it.py").statuses() == {"FALSIFY-A-1": "UNTRIED"}


def test_a_changed_test_makes_its_refutation_stale(bound):
    bound("assert 1 + 1 == 3").run("contracts", "test_it.py")

    ran = bound("assert 1 + 1 == 2").run("contracts", "test_it.py")

    assert ran.statuses() == {"FALSIFY-A-1": "PARTIAL"}


def test_an_unknown_id_is_a_warning_with_the_nearest(bound):
    project = bound("assert True is not False", mark='@pytest.mark.falsifies("FALSIFY-A-2")')

    ran = project.run("contracts", "test_it.py", "-W", "default")

    assert ran.text.count("has a falsifier FALSIFY-A-2; the nearest is FALSIFY-A-1") == 1
    assert ran.statuses() == {"FALSIFY-A-1": "UNTRIED"}


def test_the_warning_can_be_an_error(bound):
    project = bound("assert True is not False", mark='@pytest.mark.falsifies("FALSIFY-A-2")')

    ran = project.run("contracts", "test_it.py", "-W", "error::pytest_falsify.FalsifyWarning")

    assert ran.result.ret == pytest.ExitCode.USAGE_ERROR


def test_an_id_of_two_contracts_needs_the_contract(bound):
    project = bound("assert True is not False")
    project.file("contracts/two.yaml", PROSE.format(test="").replace("C-ONE", "C-TWO"))

    warned = project.run("contracts", "test_it.py", "-W", "default")
    assert "say which with contract=" in warned.text

    bound(
        "assert True is not False",
        mark='@pytest.mark.falsifies("FALSIFY-A-1", contract="C-TWO")',
    )
    ran = project.run("contracts", "test_it.py")
    assert ran.statuses("C-ONE") == {"FALSIFY-A-1": "UNTRIED"}
    assert ran.statuses("C-TWO") == {"FALSIFY-A-1": "PARTIAL"}


def test_the_mark_is_known_without_falsify(bound):
    project = bound("assert True is not False")

    result = project.pytester.runpytest_subprocess("--strict-markers", "test_it.py")

    result.assert_outcomes(passed=1)
