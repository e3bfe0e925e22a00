"""Errors say what, where, what was expected and how to mend it; values have one spelling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.canonical import canonical_bytes, canonical_text, digest
from pytest_falsify.errors import Blocked, ContractError, FalsifyError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_an_error_is_three_lines_place_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = ContractError(
        "it is wrong", path=tmp_path / "c.yaml", line=3, expected="right", remedy="mend it"
    )

    assert str(error).splitlines() == [
        "c.yaml:3: it is wrong",
        "  expected: right",
        "  to mend: mend it",
    ]


def test_a_path_elsewhere_is_shown_whole():
    assert str(FalsifyError("x", path=Path("/nowhere/c.yaml"))) == "/nowhere/c.yaml: x"


def test_a_place_is_added_only_where_there_is_none_and_the_kind_stays():
    exact = Blocked("x", path="a.yaml", line=1)

    assert exact.located("b.yaml", 9) is exact
    placed = Blocked("x", remedy="r").located("b.yaml", 9)
    assert isinstance(placed, Blocked)
    assert (placed.path, placed.line, placed.remedy) == ("b.yaml", 9, "r")


@given(JSON)
def test_canonical_forms_are_read_back_as_they_were(value):
    assert json.loads(canonical_bytes(value)) == value
    assert json.loads(canonical_text(value)) == value


@given(st.dictionaries(st.text(), JSON, min_size=2))
def test_the_order_of_keys_does_not_count(value):
    turned = dict(reversed(value.items()))

    assert canonical_bytes(turned) == canonical_bytes(value)
    assert digest(turned) == digest(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_what_is_not_finite_has_no_spelling(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical_bytes(value)


def test_a_digest_names_its_algorithm():
    assert digest({}) == ("sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a")
