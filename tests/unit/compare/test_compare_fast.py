"""The compiled pass says what the plain one says: exactly on facts, within bounds on sums."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_falsify.compare import kernels
from pytest_falsify.compare.rows import INTEGERS, RowSums

pytest.importorskip("numba", reason="the compiled pass is the optional part [fast]")
from pytest_falsify.compare.fast import BLOCK, measure

DTYPES = [
    np.float64,
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
]
NARROW_BOUND = 1e-5
COMMON = [0.0, -0.0, 1.0, -1.0, 1.5, 1e-3, 200.0]
STRAYS = [math.nan, math.inf, -math.inf]


def fast(x, y, row_length):
    sums = RowSums.zeros(x.size // row_length, row_length)
    with np.errstate(all="ignore"):
        measure(x.reshape(-1), y.reshape(-1), sums)
    return sums


def plain(x, y, row_length, monkeypatch):
    monkeypatch.setattr(kernels, "FAST_FROM", math.inf)
    return kernels.pair_sums(x, y, row_length=row_length)


def assert_agree(mine, theirs, bound):
    for name in INTEGERS:
        assert theirs.column(name).tolist() == mine.column(name).tolist(), name
    assert theirs.column("max_abs_d").tolist() == mine.column("max_abs_d").tolist()
    x2, y2 = theirs.column("sum_x2"), theirs.column("sum_y2")
    root = np.sqrt(np.maximum(theirs.column("sum_d2"), 0) * theirs.row_length)
    scales = {
        "sum_x2": x2,
        "sum_y2": y2,
        "sum_d2": theirs.column("sum_d2"),
        "sum_abs_d": root,
        "sum_d": root,
        "sum_xd": np.sqrt(x2 * theirs.column("sum_d2")),
    }
    for name, scale in scales.items():
        difference = np.abs(mine.column(name) - theirs.column(name))
        assert (difference <= bound * scale + 1e-300).all(), name


@st.composite
def pairs(draw):
    x_dtype, y_dtype = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES))
    shape = draw(st.tuples(st.integers(1, 4), st.sampled_from([1, 3, 17, 64])))
    element = st.one_of(
        st.sampled_from(COMMON), st.floats(-200, 200, width=16), st.sampled_from(COMMON + STRAYS)
    )
    x = draw(hnp.arrays(np.float64, shape, elements=element))
    y = np.where(
        draw(hnp.arrays(np.bool_, shape)), x, draw(hnp.arrays(np.float64, shape, elements=element))
    )
    with np.errstate(all="ignore"):
        return x.astype(x_dtype), y.astype(y_dtype)


@given(pairs())
@settings(max_examples=300)
def test_both_passes_agree_on_any_pair_of_float_dtypes(pair):
    x, y = pair
    is_wide = np.float64 in (x.dtype, y.dtype)
    with pytest.MonkeyPatch.context() as monkeypatch:
        theirs = plain(x, y, x.shape[1], monkeypatch)
    assert_agree(fast(x, y, x.shape[1]), theirs, 1e-12 if is_wide else NARROW_BOUND)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, 20_000])
def test_both_passes_agree_on_long_rows(dtype, length, monkeypatch):
    generator = np.random.default_rng(length)
    x = generator.standard_normal((3, length))
    y = x + 1e-2 * generator.standard_normal((3, length))
    x, y = x.astype(dtype), y.astype(dtype)
    y[1, length // 2] = math.nan
    bound = 1e-12 if dtype is np.float64 else NARROW_BOUND
    assert_agree(fast(x, y, length), plain(x, y, length, monkeypatch), bound)


@pytest.mark.parametrize("length", [64, 3 * BLOCK + 5])
def test_a_row_has_the_same_bits_whatever_stands_beside_it(length):
    x, y = np.random.default_rng(0).standard_normal((2, 9, length)).astype(np.float32)
    whole = fast(x, y, length)
    for index in range(9):
        alone = fast(x[index], y[index], length)
        assert whole.floats[:, index].tobytes() == alone.floats[:, 0].tobytes()


def test_a_large_pair_is_given_to_the_compiled_pass(monkeypatch):
    monkeypatch.setattr(kernels, "FAST_FROM", 8)
    called = []
    monkeypatch.setattr(kernels, "_compiled", lambda: lambda *_arguments: called.append(True))
    kernels.pair_sums(np.zeros(8), np.zeros(8), row_length=8)
    kernels.pair_sums(np.zeros(7), np.zeros(7), row_length=7)
    kernels.pair_sums(np.zeros(8, int), np.zeros(8, int), row_length=8)
    assert called == [True]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_kept_in_float64_for_every_dtype(dtype):
    generator = np.random.default_rng(5)
    x = generator.standard_normal(5000).astype(dtype)
    y = (x.astype(np.float64) + 1e-2 * generator.standard_normal(5000)).astype(dtype)
    a, b = x.astype(np.float64), y.astype(np.float64)
    total = fast(x, y, 5000).total()
    assert total.sum_d2 == pytest.approx(math.fsum((b - a) ** 2), rel=1e-13)
    assert total.sum_x2 == pytest.approx(math.fsum(a * a), rel=1e-13)
    assert total.sum_xd == pytest.approx(math.fsum(a * (b - a)), rel=1e-10)
