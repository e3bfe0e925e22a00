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
        (f"{NAME}[tiny]", "teacher", "teacher"),
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
