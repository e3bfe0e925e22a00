"""Samples by length: every one in its bucket, and none condemned by chance."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.compare.buckets import (
    Sample,
    beyond_alone,
    doubling_label,
    in_buckets,
    worst,
)

SAMPLES = st.lists(
    st.builds(Sample, length=st.integers(1, 5000), differs=st.sampled_from([True, False, None]))
)
EDGES = st.none() | st.sets(st.integers(1, 5000), min_size=1).map(sorted)


def samples(length, *, total, differing, control=None):
    return [
        Sample(length=length, differs=place < differing, control=control) for place in range(total)
    ]


@given(found=SAMPLES, edges=EDGES)
def test_every_sample_lies_in_one_bucket_of_its_length(found, edges):
    buckets = in_buckets(found, edges)
    assert sorted(map(id, found)) == sorted(id(e) for each in buckets for e in each.samples)
    for each in buckets:
        assert all(each.low <= one.length for one in each.samples)
        assert each.high is None or all(one.length <= each.high for one in each.samples)
    for shorter, longer in pairwise(buckets):
        assert shorter.high is not None
        assert shorter.high < longer.low


@pytest.mark.parametrize(
    ("length", "edges", "label"),
    [
        (1, None, "1"),
        (2, None, "2"),
        (17, None, "17..32"),
        (32, None, "17..32"),
        (64, [64, 256], "1..64"),
        (65, [64, 256], "65..256"),
        (257, [64, 256], "257.."),
    ],
)
def test_a_bucket_is_named_by_its_ends(length, edges, label):
    (found,) = in_buckets([Sample(length=length, differs=False)], edges)
    assert found.label == label
    assert edges is not None or doubling_label(length) == label


def test_what_could_not_be_judged_is_not_in_the_rate():
    (found,) = in_buckets([*samples(9, total=4, differing=1), Sample(length=9, differs=None)])
    assert (found.rate.count, found.rate.total, found.unjudged) == (1, 4, 1)
    (nothing,) = in_buckets([Sample(length=9, differs=None)])
    assert nothing.rate is None
    assert worst([nothing]) is None


def test_the_worst_bucket_is_the_one_that_surely_differs():
    short, long = samples(5, total=1, differing=1), samples(900, total=50, differing=30)
    assert worst(in_buckets([*short, *long])).label == "513..1024"


def test_a_bucket_that_is_beyond_by_itself_is_found_among_many():
    fine = [each for length in (5, 9, 17, 33) for each in samples(length, total=50, differing=0)]
    broken = samples(900, total=20, differing=8)
    assert [each.label for each in beyond_alone(in_buckets([*fine, *broken]), 0.05)] == [
        "513..1024"
    ]


def test_a_bucket_beyond_by_chance_is_not_beyond_among_many():
    """4 of 20 is beyond 5 % at 95 % when it is all that is looked at, not as one of six."""
    suspect = samples(900, total=20, differing=4)
    assert beyond_alone(in_buckets(suspect), 0.05)
    others = [s for length in (5, 9, 17, 33, 65) for s in samples(length, total=50, differing=0)]
    assert beyond_alone(in_buckets([*suspect, *others]), 0.05) == ()


@pytest.mark.parametrize("control", [True, False])
def test_a_bucket_in_which_good_code_differs_as_often_is_not_beyond(control):
    found = samples(9, total=12, differing=12, control=control)
    assert bool(beyond_alone(in_buckets(found, is_paired=True), 0.05)) is not control


def test_no_bucket_is_beyond_where_there_is_none():
    assert beyond_alone((), 0.05) == ()
