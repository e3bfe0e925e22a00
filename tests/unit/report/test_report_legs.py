"""Legs by layer and step, as a terminal of 100 columns shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_falsify.report.legs import NOTE, leg_table, site_table

GOLDEN = Path(__file__).parents[2] / "golden" / "report"
WIDTH = 100


def row(leg, step, layer, worst_row, *, what="k_cache", at=None):
    return {
        "leg": leg,
        "step": step,
        "layer": layer,
        "what": what,
        "rel_l2": 0.0 if worst_row is None else worst_row,
        "worst_row": worst_row,
        "max_abs": 0.5,
        "cosine": 1.0,
        "at": at or {},
        "is_beyond": at is not None,
    }


def rows(layers=3, steps=4):
    """A transfer that lost a head of layer 1, in front of an honest decode."""
    found = [row("prefill", 0, layer, 3.1e-7 * (layer + 1)) for layer in range(layers)]
    found += [row("transfer", 0, layer, 0.0061) for layer in range(layers)]
    found += [row("transfer", 0, 1, 0.0044, what="v_cache", at={"k": 0, "t": 4})]
    found += [
        row("decode", step, layer, 2e-7 * step)
        for step in range(1, steps + 1)
        for layer in range(layers)
    ]
    return found


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("legs-short", [*leg_table(rows()), NOTE]),
        ("legs-folded", [*leg_table(rows(layers=2, steps=33)), NOTE]),
        ("legs-full", site_table(rows(layers=2, steps=1))),
    ],
)
def test_a_table_is_as_it_was(name, lines):
    assert (GOLDEN / f"{name}.txt").read_text().splitlines() == lines


@given(layers=st.integers(2, 40), steps=st.integers(0, 300))
@settings(max_examples=20)
def test_a_table_fits_a_terminal_and_has_a_line_a_layer(layers, steps):
    lines = list(leg_table(rows(layers, steps)))
    assert max(map(len, [*lines, NOTE])) <= WIDTH
    assert len(lines) == layers + 1


@given(steps=st.integers(1, 300), beyond=st.integers(1, 300))
@settings(max_examples=40)
def test_a_step_that_is_beyond_is_seen_however_many_are_folded(steps, beyond):
    found = [
        row("decode", step, 0, 0.001, at={"t": 9} if step == min(beyond, steps) else None)
        for step in range(1, steps + 1)
    ]
    assert "\n".join(leg_table(found)).count("!") == 1


@pytest.mark.parametrize(("value", "shown"), [(None, "missing"), ("nan", "nan"), ("inf", "inf")])
def test_what_is_missing_or_not_finite_comes_before_any_number(value, shown):
    found = [row("prefill", 0, 0, 0.5), row("prefill", 0, 0, value, what="v_cache")]
    assert shown in list(leg_table(found))[1].split()


def test_of_nothing_there_is_no_table():
    assert site_table([]) == []
