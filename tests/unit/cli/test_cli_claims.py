"""A falsifier that a command names is found as pytest writes it, its target included."""

from __future__ import annotations

import pytest

from pytest_falsify.cli.claims import claim_named
from pytest_falsify.errors import ContractError

NAME = "contracts/a.yaml::FALSIFY-A-1"


@pytest.mark.parametrize(
    ("name", "target", "on"),
    [
        (NAME, None, "tiny"),
        (f"{NAME}[tiny]", None, "tiny"),
        (f"{NAME}[teacher]", None, "teacher"),
        (NAME, "teacher", "teacher"),
        (f"{NAME}[teacher]", "teacher", "teacher"),
    ],
)
def test_the_target_is_the_one_that_was_named(repository, name, target, on):
    del repository
    assert claim_named(name, target).target.name == on


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (f"{NAME}[nowhere]", "`nowhere` is no target of FALSIFY-A-1"),
        ("contracts/a.yaml::FALSIFY-A-9", "names no falsifier"),
        ("contracts/a.yaml", "names no falsifier"),
    ],
)
def test_what_is_not_there_is_told(repository, name, told):
    del repository
    with pytest.raises(ContractError, match=told):
        claim_named(name)


@pytest.mark.parametrize("command", [("localize",), ("prompt", "manual")])
def test_two_targets_that_differ_are_refused(repository, command):
    told = repository.cli(
        command[0], f"{NAME}[tiny]", *command[1:], "--target", "teacher", status=2
    )

    assert "names the target `tiny`, and --target `teacher`" in told
    assert "to mend: leave out --target, or the brackets" in told
