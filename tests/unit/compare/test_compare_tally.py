"""Counts that are made on request are those of NumPy, exactly, however the pair is cut."""

import json
import math
from collections import Counter

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_falsify.compare import counting
from pytest_falsify.compare.counting import tally
from pytest_falsify.compare.kernels import pair_sums
from pytest_falsify.compare.statistics import PairStatistics, merge_all
from pytest_falsify.compare.tally import Tally, Tolerance, merge_tallies

DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn"),
    *("int64", "int8", "uint16", "bool"),
)
numbers = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-200, 200),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0]),
)
tolerances = st.builds(Tolerance, atol=st.floats(0, 10), rtol=st.floats(0, 2))


@st.composite
def pairs(draw):
    x_dtype, y_dtype = draw(st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)))
    x_dtype, y_dtype = draw(st.sampled_from([(x_dtype, x_dtype), (x_dtype, y_dtype)]))
    length = draw(st.integers(1, 12))
    x, y = (np.array(draw(st.lists(numbers, min_size=length, max_size=length))) for _ in range(2))
    y = np.where(draw(hnp.arrays(np.bool_, length)), x, y)
    is_integer = np.dtype(x_dtype).kind in "biu", np.dtype(y_dtype).kind in "biu"
    with np.errstate(all="ignore"):
        x, y = (
            (np.nan_to_num(each, posinf=9, neginf=-9) if whole else each).astype(dtype)
            for each, whole, dtype in zip((x, y), is_integer, (x_dtype, y_dtype), strict=True)
        )
    return x, y


@given(pairs(), tolerances)
def test_exceeding_is_what_allclose_refuses(pair, tolerance):
    x, y = (each.astype(np.float64) for each in pair)
    is_close = np.isclose(y, x, atol=tolerance.atol, rtol=tolerance.rtol)
    found = tally(*pair, [tolerance])
    assert found.n == len(x)
    assert found.exceeds == {tolerance: (~is_close).sum()}


@given(pairs())
def test_the_histogram_holds_the_distance_of_every_finite_pair(pair):
    distances = [
        pair_sums(x[None], y[None], row_length=1).total() for x, y in zip(*pair, strict=True)
    ]
    buckets = Counter(each.max_ulp.bit_length() for each in distances if each.finite)
    expected = [buckets[index] for index in range(max(buckets, default=-1) + 1)]
    assert list(tally(*pair).ulps) == expected


@pytest.mark.parametrize(
    ("distance", "bucket"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (2**62, 63)]
)
def test_buckets_are_powers_of_two(distance, bucket):
    assert tally(np.array([0]), np.array([distance])).ulps == (0,) * bucket + (1,)


@given(pairs(), st.lists(tolerances, max_size=2), st.data())
def test_any_cut_gives_the_counts_of_the_whole(pair, wanted, data):
    x, y = pair
    cut = data.draw(st.integers(0, len(x)))
    parts = [tally(x[:cut], y[:cut], wanted), tally(x[cut:], y[cut:], wanted)]
    assert tally(x, y, wanted) == merge_tallies(parts)


def test_passes_add_up(monkeypatch):
    x, y = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    wanted = [Tolerance(atol=0.1, rtol=0.1)]
    whole = tally(x, y, wanted)
    monkeypatch.setattr(counting, "PASS", 7)
    assert whole == tally(x, y, wanted)


def test_a_tolerance_that_one_part_did_not_count_is_not_known_of_the_whole():
    one, other = Tolerance(atol=0, rtol=0), Tolerance(atol=1, rtol=0)
    values = np.arange(3.0)
    both = tally(values, values + 0.5, [one, other])
    merged = merge_tallies([both, tally(values, values, [other]), Tally()])
    assert merged.exceeds == {other: 0}


def statistics(pair, wanted):
    total = pair_sums(*pair, row_length=len(pair[0])).total()
    facts = {name: getattr(total, name) for name in total.__slots__}
    return PairStatistics(**facts | {"tally": tally(*pair, wanted)})


@given(pairs(), pairs(), st.lists(tolerances, max_size=2))
def test_the_statistics_carry_the_counts_through_merge_and_json(one, other, wanted):
    one, other = statistics(one, wanted), statistics(other, wanted)
    merged = merge_all([one, PairStatistics(), other])
    assert merged.tally == merge_tallies([one.tally, other.tally])
    text = json.dumps(merged.to_json(), allow_nan=False)
    assert merged == PairStatistics.from_json(json.loads(text))


@given(pairs())
def test_statistics_without_counts_leave_the_whole_without(pair):
    counted = statistics(pair, [])
    plain = pair_sums(*pair, row_length=len(pair[0])).total()
    assert merge_all([counted, plain]).tally is None
    assert "tally" not in plain.to_json()


def test_wide_and_narrow_are_counted_in_the_coarser():
    x = np.array([1.0, 1.0 + 2**-7], np.float32)
    y = np.array([1.0 + 2**-7, 1.0 + 2**-7], ml_dtypes.bfloat16)
    assert tally(x, y).ulps == (1, 1)
