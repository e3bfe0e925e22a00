"""Parts are found by name, made once, and offered by installed packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from pytest_falsify import plugins
from pytest_falsify.errors import FalsifyError
from pytest_falsify.plugins import Parts


class Mine:
    """A part of an installed package."""


@pytest.fixture
def parts(monkeypatch):
    offered = [
        EntryPoint(name="mine", value=f"{__name__}:Mine", group="g"),
        EntryPoint(name="list", value="builtins:dict", group="g"),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: offered if group == "g" else [])
    return Parts("part", group="g", built_in={"list": "builtins:list"})


def test_built_in_and_offered_parts_are_named_together(parts):
    assert parts.names() == ("list", "mine")


def test_an_offered_part_is_made_once(parts):
    assert type(parts.get("mine")).__name__ == "Mine"
    assert parts.get("mine") is parts.get("mine")


def test_a_package_cannot_take_the_place_of_a_built_in_part(parts):
    assert parts.get("list") == []


def test_an_unknown_name_is_refused_and_the_known_ones_are_told(parts):
    with pytest.raises(FalsifyError, match="unknown part `x`") as caught:
        parts.get("x")

    assert "one of list, mine" in str(caught.value)
