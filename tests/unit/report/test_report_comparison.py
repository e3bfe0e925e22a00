"""The table of a comparison is what its golden files show, in both shapes, short and full."""

from __future__ import annotations

import json

import pytest
from report_support import SITES, assert_golden, growing, make_capture

from pytest_falsify.checks.side_by_side import conclude
from pytest_falsify.report.comparison import beyond_of, comparison_json, comparison_table
from pytest_falsify.stages.vocabulary import Site

FIRST = Site(0, 1, "q_post_rope")
STATED = {"rel_l2": {"max": 1e-3}, "worst_row": {"max": 1e-2}}


@pytest.fixture
def stated():
    """A subject beyond stated limits."""
    subject = make_capture(errors=growing(FIRST, error=0.0625))
    return conclude(subject, make_capture(), expect=STATED).judged


@pytest.fixture
def measured():
    """A subject beyond the floor of a control."""
    noise = growing(SITES[0], error=2**-10)
    control = make_capture(errors=noise)
    subject = make_capture(errors=noise | growing(FIRST, error=0.0625))
    return conclude(subject, make_capture(), control=control).judged


@pytest.fixture
def honest():
    """A subject within stated limits."""
    subject = make_capture(errors=growing(FIRST, error=2**-14))
    return conclude(subject, make_capture(), expect=STATED).judged


@pytest.mark.parametrize("kind", ["stated", "measured", "honest"])
@pytest.mark.parametrize("length", ["short", "full"])
def test_a_table_is_its_golden_file(request, kind, length):
    lines = comparison_table(request.getfixturevalue(kind), is_full=length == "full")

    assert_golden(f"comparison-{kind}-{length}.txt", "\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", ["stated", "measured", "honest"])
def test_the_first_site_beyond_is_marked_and_no_other(request, kind):
    judged = request.getfixturevalue(kind)

    marked = [line for line in comparison_table(judged, is_full=True) if line.startswith("  > ")]

    assert [line.split()[1] for line in marked] == ([] if kind == "honest" else [str(FIRST)])


def test_every_site_is_in_the_full_table_once_and_in_causal_order(stated):
    lines = comparison_table(stated, is_full=True)

    assert [str(site) for site in SITES] == [
        word for line in lines for word in line.split()[:2] if word.startswith("0/")
    ]


def test_the_short_table_says_how_many_sites_it_leaves_out(stated):
    short, full = (len(comparison_table(stated, is_full=each)) for each in (False, True))
    told = next(line for line in comparison_table(stated, is_full=False) if "more sites" in line)

    assert int(told.split()[1]) == full - short + 1


def test_no_line_ends_in_blanks(measured):
    assert not [line for line in comparison_table(measured, is_full=True) if line != line.rstrip()]


def test_the_json_says_what_the_table_says(measured):
    told = json.loads(json.dumps(comparison_json(measured), allow_nan=False))

    beyond = {str(site): reason for site, reason in beyond_of(measured).items()}
    assert beyond == {each["site"]: each["beyond"] for each in told["sites"] if each["beyond"]}
    assert [str(site) for site in SITES] == [each["site"] for each in told["sites"]]
    assert all(each["noise"]["judgement"] for each in told["sites"])
