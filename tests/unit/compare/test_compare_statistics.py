"""The statistics are a monoid, and they fail closed."""

import json
import math
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_falsify.compare.kernels import pair_sums
from pytest_falsify.compare.rows import RowSums
from pytest_falsify.compare.statistics import COUNTS, SUMS, PairStatistics, merge_all

WORST = {
    "rel_l2": math.inf,
    "one_minus_cosine": 2.0,
    "cosine": -1.0,
    "nmse_db": math.inf,
    "snr_db": -math.inf,
    "rms": math.inf,
    "max_abs": math.inf,
    "mean_abs": math.inf,
    "bias": math.inf,
}

numbers = st.one_of(
    st.floats(-1e6, 1e6).filter(lambda number: number == 0 or abs(number) > 1e-6),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)


def measure(x, y):
    return pair_sums(np.asarray(x), np.asarray(y), row_length=len(x)).total()


@st.composite
def statistics(draw):
    length = draw(st.integers(1, 6))
    x, y = (draw(st.lists(numbers, min_size=length, max_size=length)) for _ in range(2))
    return measure(x, y)


def facts_that_are_exact(found):
    return {each.name: getattr(found, each.name) for each in fields(found) if each.name not in SUMS}


@given(statistics())
def test_nothing_is_the_neutral_element(one):
    assert one == one.merge(PairStatistics()) == PairStatistics().merge(one)


@given(statistics(), statistics(), statistics())
def test_merge_is_associative(a, b, c):
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    assert facts_that_are_exact(left) == facts_that_are_exact(right)
    for name in SUMS:
        scale = sum(abs(getattr(each, name)) for each in (a, b, c))
        assert getattr(left, name) == pytest.approx(getattr(right, name), abs=1e-15 * scale)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20), st.data())
def test_any_cut_gives_the_statistics_of_the_whole(pairs, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(pairs)), max_size=4)) | {len(pairs)})
    parts = [
        measure(*zip(*pairs[start:stop], strict=True))
        for start, stop in zip([0, *cuts], cuts, strict=False)
        if start < stop
    ]
    whole = measure(*zip(*pairs, strict=True))
    merged = merge_all(parts)
    assert facts_that_are_exact(whole) == facts_that_are_exact(merged)
    for name in SUMS:
        scale = sum(abs(getattr(each, name)) for each in parts)
        assert getattr(merged, name) == pytest.approx(getattr(whole, name), abs=1e-12 * scale)


@given(hnp.arrays(np.float64, (4, 5), elements=numbers), hnp.arrays(np.float64, (4, 5)))
def test_the_rows_agree_with_their_statistics(x, y):
    rows = pair_sums(x, y, row_length=5)
    each = [rows.row(index) for index in range(4)]
    assert [one.rel_l2 for one in each] == pytest.approx(rows.rel_l2().tolist(), rel=1e-15)
    assert merge_all(each) == rows.total()
    assert max(one.rel_l2 for one in each) == pytest.approx(each[rows.worst()].rel_l2)


@given(statistics())
def test_json_holds_every_fact_and_no_nan(one):
    text = json.dumps(one.to_json(), allow_nan=False)
    assert one == PairStatistics.from_json(json.loads(text))


def test_json_of_an_overflow_is_a_word():
    one = measure([1e200], [2e200])
    assert one.to_json()["sum_d2"] == "inf"
    assert one == PairStatistics.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False)))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([1.0, math.nan], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, math.nan]),
        ([1.0, math.nan], [1.0, math.nan]),
        ([1.0, math.inf], [1.0, -math.inf]),
        ([1.0, math.inf], [1.0, 3e38]),
    ],
)
def test_what_is_not_sound_has_the_worst_value_of_every_metric(x, y):
    found = measure(x, y) if x else PairStatistics()
    assert {name: getattr(found, name) for name in WORST} == WORST
    assert math.isnan(found.scale)
    assert not found.is_bit_equal
    assert not found.is_equal


def test_masked_places_with_the_same_infinity_agree():
    found = measure([1.0, -math.inf], [1.5, -math.inf])
    assert found.rel_l2 == 0.5
    assert (found.finite, found.nonfinite_mismatch) == (1, 0)
    assert measure([-math.inf], [-math.inf]).is_bit_equal


def test_a_zero_oracle_is_infinitely_far_from_a_subject_that_is_not():
    found = measure([0.0, 0.0], [0.0, 1e-3])
    assert (found.rel_l2, found.cosine, found.max_abs) == (math.inf, -1.0, 1e-3)
    assert math.isnan(found.scale)


def test_a_zero_subject_has_no_direction():
    found = measure([1.0, 2.0], [0.0, 0.0])
    assert (found.rel_l2, found.cosine, found.scale) == (1.0, -1.0, 0.0)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_squares_out_of_range_do_not_pass(size):
    found = measure([size, size], [2 * size, size])
    assert (found.rel_l2, found.one_minus_cosine) == (math.inf, 2.0)


def test_equal_values_are_perfect_even_out_of_range():
    found = measure([1e200, -0.0], [1e200, 0.0])
    assert (found.rel_l2, found.cosine, found.scale, found.bias) == (0.0, 1.0, 1.0, 0.0)
    assert found.nmse_db == -math.inf
    assert (found.is_equal, found.is_bit_equal) == (True, False)


@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-5, 1e-7])
def test_one_minus_cosine_keeps_its_digits_near_one(noise):
    generator = np.random.default_rng(3)
    x = generator.standard_normal((64, 512))
    y = x + noise * generator.standard_normal(x.shape)
    a, b = x.astype(np.longdouble), y.astype(np.longdouble)
    unit = a / np.sqrt((a * a).sum()), b / np.sqrt((b * b).sum())
    expected = float(((unit[0] - unit[1]) ** 2).sum() / 2)
    found = pair_sums(x, y, row_length=512).total().one_minus_cosine
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6])
def test_one_minus_cosine_keeps_its_digits_when_sums_are_kept_in_float32(noise):
    generator = np.random.default_rng(4)
    x = generator.standard_normal((64, 512)).astype(np.float32)
    y = (x + noise * generator.standard_normal(x.shape)).astype(np.float32)
    expected = measure(x.astype(np.float64).ravel(), y.astype(np.float64).ravel())
    found = pair_sums(x, y, row_length=512).total()
    assert found.one_minus_cosine == pytest.approx(expected.one_minus_cosine, rel=1e-5)


@given(st.floats(1e-7, 1e-3), st.floats(-1, 1), st.floats(-2e-7, 2e-7))
def test_a_float32_rounding_of_the_sums_does_not_reach_one_minus_cosine(size, along, rounding):
    """|y| - |x| of two rounded norms would bring 1e-7 squared into a result of size squared."""
    x2, d2, xd = 1.0, size**2, along * size
    y2 = x2 + 2 * xd + d2
    found = PairStatistics(n=1, finite=1, mismatched=1, max_ulp=1, max_abs_d=size)
    found = replace(found, sum_x2=x2, sum_d2=d2, sum_xd=xd, sum_y2=y2 * (1 + rounding))
    squared = (Fraction(x2) + Fraction(xd)) ** 2 / (
        Fraction(x2) * (1 + 2 * Fraction(xd) + Fraction(size) ** 2)
    )
    expected = float(1 - squared) / (1 + math.sqrt(squared))
    assert found.one_minus_cosine == pytest.approx(expected, rel=1e-5, abs=1e-5 * size**2)


def test_scale_sees_what_the_cosine_does_not():
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    found = measure(x, np.float32(1.03) * x)
    assert found.one_minus_cosine < 1e-12
    assert found.scale == pytest.approx(1.03)
    assert found.rel_l2 == pytest.approx(0.03, rel=1e-4)


def test_known_values():
    found = measure([3.0, 4.0], [3.0, 3.0])
    assert found.rel_l2 == 0.2
    assert found.nmse_db == pytest.approx(-13.9794)
    assert (found.rms, found.mean_abs, found.bias) == (math.sqrt(0.5), 0.5, -0.5)
    assert found.sum_xy == 21.0
    assert found.cosine == pytest.approx(21 / (5 * math.sqrt(18)))


def test_no_rows_have_no_worst():
    empty = RowSums.zeros(0, 4)
    assert empty.total() == PairStatistics()
    assert RowSums.zeros(1, 4).rel_l2().tolist() == [PairStatistics().rel_l2]
    with pytest.raises(ValueError, match="empty"):
        empty.worst()


def test_every_count_is_a_fact():
    assert set(COUNTS) < {each.name for each in fields(PairStatistics)}
