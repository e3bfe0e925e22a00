"""What was parsed once is not parsed again, with and without workers."""

from __future__ import annotations

PARSES = """
import pytest_falsify.contracts.load as load

def refuse(data, path):
    raise AssertionError("parsed again")

load.parse_contract = refuse
"""


def test_what_the_cache_holds_is_not_parsed_again(project, workers):
    project.pytester.makeini("[pytest]\naddopts = -p no:randomly")
    project.contract("FALSIFY-A-1", "FALSIFY-A-2")
    project.captures()
    # Lint reads documents, lines and all; it is off here.
    off = ("-p", "no:falsify-lint")
    assert project.run("contracts", "-n", "0", *off).outcomes == {"passed": 2}
    with (project.path / "conftest.py").open("a") as file:
        file.write(PARSES)

    assert project.run("contracts", *off, "-n", workers[-1] if workers else "0").outcomes == {
        "passed": 2
    }


def test_without_the_cache_it_is(project):
    project.contract("FALSIFY-A-1")
    project.captures()
    with (project.path / "conftest.py").open("a") as file:
        file.write(PARSES)

    assert "parsed again" in project.run("contracts", "-n", "0").text
