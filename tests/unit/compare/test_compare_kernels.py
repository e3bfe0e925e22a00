"""The kernel's sums are those of exact arithmetic, and its facts are exact."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_falsify.compare.kernels import BLOCK, _measure_short_rows, pair_sums
from pytest_falsify.compare.rows import RowSums
from pytest_falsify.compare.statistics import SUMS
from pytest_falsify.errors import AlignmentError

BOUND = {np.dtype(np.float64): 1e-12}
NARROW_BOUND = 1e-5
"""Stated bounds of the sums, relative to the sum of magnitudes."""

FLOATS = {
    "float64": (np.float64, 1e100),
    "float32": (np.float32, 3e38),
    "float16": (np.float16, 65504.0),
    "bfloat16": (ml_dtypes.bfloat16, 3e38),
    "float8_e4m3fn": (ml_dtypes.float8_e4m3fn, 448.0),
    "float8_e5m2": (ml_dtypes.float8_e5m2, 57344.0),
}
INTEGERS = (np.int64, np.int32, np.int16, np.int8, np.uint8, np.uint16, np.uint32, np.bool_)


def values(dtype, bound):
    width = 64 if dtype is np.float64 else 32
    floats = st.floats(-float(np.float32(bound)), float(np.float32(bound)), width=width)
    return floats.map(lambda number: np.array(number).astype(dtype))


@st.composite
def float_pairs(draw, *, has_nonfinite=False):
    dtype, bound = FLOATS[draw(st.sampled_from(sorted(FLOATS)))]
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 9)))
    element = st.floats(-bound, bound).map(lambda number: number if abs(number) > 1e-100 else 0.0)
    if has_nonfinite:
        strays = [math.nan, math.inf, -math.inf]
        if dtype is ml_dtypes.float8_e4m3fn:
            strays = [math.nan]
        element = st.one_of(element, st.sampled_from(strays))
    numbers = st.lists(element, min_size=math.prod(shape), max_size=math.prod(shape))
    with np.errstate(all="ignore"):
        x, y = (np.array(draw(numbers)).reshape(shape).astype(dtype) for _ in range(2))
    keep = draw(hnp.arrays(np.bool_, shape))
    return x, np.where(keep, x, y)


def exact(x, y):
    pairs = [(Fraction(float(a)), Fraction(float(b))) for a, b in zip(x, y, strict=True)]
    return {
        "sum_x2": sum(a * a for a, _ in pairs),
        "sum_y2": sum(b * b for _, b in pairs),
        "sum_d2": sum((b - a) ** 2 for a, b in pairs),
        "sum_abs_d": sum(abs(b - a) for a, b in pairs),
        "sum_d": sum(b - a for a, b in pairs),
        "sum_xd": sum(a * (b - a) for a, b in pairs),
    }


def magnitudes(x, y):
    pairs = [(abs(Fraction(float(a))), abs(Fraction(float(b)))) for a, b in zip(x, y, strict=True)]
    linear = sum(a + b for a, b in pairs)
    square = sum((a + b) ** 2 for a, b in pairs)
    return {name: linear if name in {"sum_d", "sum_abs_d"} else square for name in SUMS}


@given(float_pairs())
def test_sums_are_exact_within_the_stated_bound_for_every_float_dtype(pair):
    x, y = pair
    rows = pair_sums(x, y, row_length=x.shape[1])
    bound = BOUND.get(x.dtype, NARROW_BOUND)
    for index in range(len(rows)):
        scale = magnitudes(x[index], y[index])
        for name, expected in exact(x[index], y[index]).items():
            found = Fraction(float(rows.column(name)[index]))
            assert abs(found - expected) <= bound * float(scale[name])


@given(float_pairs())
def test_the_largest_difference_is_the_difference_at_its_place(pair):
    x, y = pair
    difference = np.abs(y.astype(np.float64) - x.astype(np.float64)).reshape(-1)
    total = pair_sums(x, y, row_length=x.shape[1]).total()
    assert total.max_abs_d == pytest.approx(difference.max(), rel=1e-6)
    assert total.max_abs_d == difference[total.where]


@given(float_pairs(has_nonfinite=True))
def test_nonfinite_facts_are_exact_for_every_float_dtype(pair):
    x, y = pair
    a, b = x.astype(np.float64), y.astype(np.float64)
    is_stray = ~(np.isfinite(a) & np.isfinite(b)) & ~(a == b)
    rows = pair_sums(x, y, row_length=x.shape[1])
    facts = {
        "nonfinite_x": (~np.isfinite(a)).sum(1),
        "nonfinite_y": (~np.isfinite(b)).sum(1),
        "nonfinite_mismatch": is_stray.sum(1),
        "finite": (np.isfinite(a) & np.isfinite(b)).sum(1),
        "mismatched": [
            sum(p.tobytes() != q.tobytes() for p, q in zip(*row, strict=True))
            for row in zip(x, y, strict=True)
        ],
    }
    for name, expected in facts.items():
        assert list(expected) == rows.column(name).tolist(), name
    assert np.isfinite(rows.floats).all()
    if is_stray.any():
        assert is_stray.reshape(-1).argmax() == rows.total().where


@given(float_pairs(), st.integers(1, 5))
def test_a_row_has_the_same_bits_whatever_stands_beside_it(pair, count):
    x, y = pair
    whole = pair_sums(x, y, row_length=x.shape[1])
    part = pair_sums(x[:count], y[:count], row_length=x.shape[1])
    assert whole.floats[:, :count].tobytes() == part.floats.tobytes()
    assert whole.integers[:, :count].tobytes() == part.integers.tobytes()


@given(float_pairs(has_nonfinite=True), st.floats(-30, 30))
def test_a_row_alone_has_the_facts_and_the_bits_of_the_general_pass(pair, exponent):
    with np.errstate(all="ignore"):
        pair = [(each.astype(float) * 10**exponent).astype(each.dtype) for each in pair]
    for x, y in zip(*pair, strict=True):
        found = pair_sums(x, y, row_length=x.size)
        expected = RowSums.zeros(1, x.size)
        with np.errstate(all="ignore"):
            _measure_short_rows(x, y, expected)
        assert expected.floats.tobytes() == found.floats.tobytes()
        assert expected.integers.tobytes() == found.integers.tobytes()


@given(st.sampled_from(["float32", "float16", "bfloat16"]), st.integers(0, 2**32 - 1))
def test_a_longer_row_alone_has_the_bits_that_it_has_beside_others(dtype, seed):
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((2, generator.integers(1, 700)))
    x, y = (each.astype(FLOATS[dtype][0]) for each in (noise, noise * [[1], [1.01]] - 1e-3))
    alone, beside = (pair_sums(x[:n], y[:n], row_length=x.shape[1]) for n in (1, 2))
    assert beside.floats[:, :1].tobytes() == alone.floats.tobytes()
    assert beside.integers[:, :1].tobytes() == alone.integers.tobytes()


@pytest.mark.parametrize("length", [64, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_a_row_has_the_same_bits_in_any_chunk(length):
    generator = np.random.default_rng(length)
    x = generator.standard_normal((7, length), dtype=np.float32)
    y = x + np.float32(1e-3) * generator.standard_normal((7, length), dtype=np.float32)
    whole = pair_sums(x, y, row_length=length)
    for index in range(7):
        alone = pair_sums(x[index], y[index], row_length=length)
        assert whole.floats[:, index].tobytes() == alone.floats[:, 0].tobytes()


@pytest.mark.parametrize("length", [BLOCK + 1, 3 * BLOCK + 7])
def test_a_long_row_is_measured_like_its_parts(length):
    generator = np.random.default_rng(length)
    x, y = generator.standard_normal((2, length))
    total = pair_sums(x, y, row_length=length).total()
    assert math.fsum((y - x) ** 2) == pytest.approx(total.sum_d2, rel=1e-12)
    assert math.fsum(x * (y - x)) == pytest.approx(total.sum_xd, rel=1e-10)
    assert np.abs(y - x).argmax() == total.where
    y[BLOCK] = np.nan
    assert pair_sums(x, y, row_length=length).total().where == BLOCK


@pytest.mark.parametrize("dtype", INTEGERS)
@given(data=st.data())
@settings(max_examples=30)
def test_integer_facts_are_exact(dtype, data):
    x, y = (data.draw(hnp.arrays(dtype, (2, 4))) for _ in range(2))
    rows = pair_sums(x, y, row_length=4)
    a, b = (each.astype(object) for each in (x, y))
    largest = [max(abs(int(q) - int(p)) for p, q in zip(*row, strict=True)) for row in zip(a, b)]  # noqa: B905
    assert [min(each, 2**63 - 1) for each in largest] == rows.column("max_ulp").tolist()
    assert (x != y).sum(1).tolist() == rows.column("mismatched").tolist()
    assert (x == y).all() == rows.total().is_bit_equal


@given(st.sampled_from([np.float32, np.float64, np.float16]), st.integers(0, 300), st.booleans())
def test_ulps_count_the_steps_between_two_floats(dtype, steps, is_negative):
    start = dtype(-1.0 if is_negative else 1.0)
    end = start
    for _ in range(steps):
        end = np.nextafter(end, dtype(math.inf))
    pair = np.array([start]), np.array([end])
    assert steps == pair_sums(*pair, row_length=1).total().max_ulp


def test_ulps_across_zero_count_both_sides_and_zero_once():
    tiny = np.nextafter(np.float32(0), np.float32(1))
    x, y = np.array([tiny, -0.0], np.float32), np.array([-tiny, 0.0], np.float32)
    rows = pair_sums(x, y, row_length=1)
    assert rows.column("max_ulp").tolist() == [2, 0]
    assert rows.column("mismatched").tolist() == [1, 1]


def test_ulps_of_different_dtypes_are_those_of_the_coarser():
    x = np.array([1.0 + 2**-20, 3.0], np.float32)
    y = np.array([1.0, 3.0], ml_dtypes.bfloat16)
    total = pair_sums(x, y, row_length=2).total()
    assert (total.max_ulp, total.mismatched) == (0, 1)
    assert total.max_abs == 2**-20


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_nan_is_no_distance(dtype):
    total = pair_sums(np.array([0, 1], dtype), np.array([math.nan, 1], dtype), row_length=2).total()
    assert (total.max_ulp, total.mismatched, total.max_abs_d) == (0, 1, 0.0)


def test_large_integers_are_not_equal_when_float64_cannot_tell_them_apart():
    x = np.array([2**60, 7])
    total = pair_sums(x, x + np.array([1, 0]), row_length=2).total()
    assert not total.is_equal
    assert total.rel_l2 == math.inf


@pytest.mark.parametrize(
    ("x", "y", "row_length"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), 3),
        (np.zeros(6), np.zeros(6), 4),
        (np.zeros(6), np.zeros(6), 0),
        (np.zeros(2, complex), np.zeros(2, complex), 2),
        (np.array(["a"]), np.array(["b"]), 1),
    ],
)
def test_what_cannot_be_measured_is_refused(x, y, row_length):
    with pytest.raises(AlignmentError):
        pair_sums(x, y, row_length=row_length)


def test_no_values_leave_no_rows():
    assert pair_sums(np.zeros((0, 4)), np.zeros((0, 4)), row_length=4).total().is_empty


def test_the_inputs_are_not_written_to():
    x, y = np.array([1.0, math.nan, 3.0]), np.array([2.0, 5.0, math.inf])
    kept = x.tobytes(), y.tobytes()
    x.flags.writeable = y.flags.writeable = False
    pair_sums(x, y, row_length=3)
    assert kept == (x.tobytes(), y.tobytes())
