"""The workers of a test run share captures: each is made once, unless that is switched off.

With ``--dist each`` every worker runs every test, so each of them asks for the same capture.
"""

from __future__ import annotations

import pytest

CONFTEST = """
    import numpy as np
    from pathlib import Path
    from pytest_falsify import python_engine

    @python_engine("counted", version="1", stages=["embedding"], layer_count=1)
    def run(inputs, plan):
        with (Path(__file__).parent / "runs").open("a") as file:
            file.write("run\\n")
        return {"embedding": np.ones((len(inputs.tokens), 4), np.float32)}
"""
TESTS = """
    import pytest

    pytestmark = pytest.mark.falsify_target(model="model")

    @pytest.mark.parametrize("number", range(3))
    def test_it(falsify_capture, number):
        spec = {"engine": "python", "call": "counted"}
        assert falsify_capture(spec, [1, 2], stages=["embedding"]).tensors
"""


@pytest.fixture
def runs(project):
    """Return a callable that runs the tests and tells how often the engine ran."""
    project.file("conftest.py", CONFTEST)
    project.file("test_it.py", TESTS)
    project.file("model/weights", "w")

    def count(*arguments):
        counted = project.path / "runs"
        counted.unlink(missing_ok=True)
        result = project.pytester.runpytest_subprocess(*arguments)
        assert result.ret == 0, result.stdout.str()
        return len(counted.read_text().splitlines())

    return count


def test_workers_share_a_run_unless_that_is_switched_off(project, runs):
    assert runs("-n", "2", "--dist", "each") == 1
    assert runs("-n", "2", "--dist", "each", "--falsify-captures=off") == 2
    assert (project.path / ".falsify" / ".gitignore").read_text() == "*\n"


def test_without_workers_nothing_is_kept_on_disk(project, runs):
    assert runs() == 1
    assert not (project.path / ".falsify").exists()


def test_an_unknown_mode_is_refused(project, runs):
    ini = project.path / "tox.ini"
    ini.write_text(ini.read_text() + "\nfalsify_captures = always\n")

    result = project.pytester.runpytest_subprocess()

    result.stdout.fnmatch_lines(
        ["*falsify_captures = always*", "*expected: one of run, keep, off*"]
    )
