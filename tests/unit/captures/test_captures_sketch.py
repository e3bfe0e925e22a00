"""A sketch estimates the relative L2 error within what is stated, and claims no more than that."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from captures_support import assert_same, make_capture, make_tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_falsify.captures.bundle import read_bundle, write_bundle
from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.sketch import PROJECTIONS, RELATIVE_ERROR, sketched
from pytest_falsify.checks.side_by_side import Standing, conclude
from pytest_falsify.compare.comparison import compare_captures, compare_tensors
from pytest_falsify.compare.limits import parse_limits, violations
from pytest_falsify.errors import AlignmentError
from pytest_falsify.stages.vocabulary import Site

SITE = Site(0, 0, "attn_out")
HEADS = Site(0, 0, "q_post_rope")
WIDTH = 1024


def tensor(array, dims="t d"):
    tokens = array.shape[dims.split().index("t")]
    return CapturedTensor(array=array, dims=dims, positions=tuple(range(tokens)))


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def estimate(subject, oracle, *, site=SITE, dims="t d"):
    pair = (tensor(subject, dims), sketched(site, tensor(oracle, dims)))
    return compare_tensors(*pair, site=site)


@given(error=st.floats(1e-4, 2.0), seed=st.integers(0, 10**6))
@settings(max_examples=60)
def test_the_error_of_any_token_is_estimated_within_a_factor_of_four(error, seed):
    """The square of the ratio has the F distribution of (16, 16): one in a million is beyond 4."""
    x = values(1, WIDTH, seed=seed)
    d = values(1, WIDTH, seed=seed + 1)
    y = (x + error * np.linalg.norm(x) / np.linalg.norm(d) * d).astype(np.float32)

    found = estimate(y, x).total.rel_l2

    assert error / 4 < found < error * 4


def test_the_stated_deviation_is_the_one_that_is_seen():
    ratios = []
    for seed in range(300):
        x, d = values(1, WIDTH, seed=2 * seed), values(1, WIDTH, seed=2 * seed + 1)
        ratios.append(estimate(x + 0.1 * d, x).total.rel_l2 / compare_tensors(
            tensor(x + 0.1 * d), tensor(x), site=SITE
        ).total.rel_l2)  # fmt: skip

    assert 0.7 * RELATIVE_ERROR < np.std(ratios) < 1.3 * RELATIVE_ERROR
    assert abs(np.mean(ratios) - 1) < 0.06


@pytest.mark.parametrize(
    "fault",
    {
        "two values exchanged": lambda x: x[:, ::-1],
        "tokens shifted": lambda x: np.roll(x, 1, axis=0),
        "another scale": lambda x: x * np.float32(1.03),
        "one sign": lambda x: np.where(np.arange(WIDTH) == 7, -x, x),
    }.items(),
    ids=lambda item: item[0],
)
def test_faults_that_keep_sums_and_norms_are_seen(fault):
    x = values(8, WIDTH)
    y = np.ascontiguousarray(fault[1](x))

    found = estimate(y, x).total.rel_l2

    truth = compare_tensors(tensor(y), tensor(x), site=SITE).total.rel_l2
    assert truth / 2 < found < truth * 2


def test_exchanged_heads_are_seen_and_the_order_of_axes_does_not_matter():
    x = values(5, 4, 32)
    faulty = estimate(x[:, ::-1].copy(), x, site=HEADS, dims="t h d")
    oracle = sketched(HEADS, tensor(x, "t h d"))
    head_major = tensor(np.ascontiguousarray(x.transpose(1, 0, 2)), "h t d")

    assert faulty.total.rel_l2 > 1
    assert compare_tensors(head_major, oracle, site=HEADS).total.rel_l2 < 1e-6


@pytest.mark.parametrize(
    ("dims", "order"), [("h t d", (1, 0, 2)), ("h d t", (1, 2, 0)), ("t h d", (0, 1, 2))]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_tokens_need_not_come_first(dims, order, dtype):
    token_major = values(5, 3, 32).astype(dtype)
    other = tensor(token_major.transpose(order), dims)
    rest = [name for name in dims.split() if name != "t"]
    expected = sketched(HEADS, tensor(token_major, " ".join(["t", *rest])))

    for each in (other, replace(other, array=np.ascontiguousarray(other.array))):
        found = sketched(HEADS, each)
        np.testing.assert_allclose(found.array, expected.array, rtol=1e-5, atol=1e-4)
        assert found.sketch == expected.sketch


def test_a_sketch_is_sixteen_numbers_a_token_and_the_same_for_ever():
    x = np.ones((2, 4096), np.float32)

    found = sketched(SITE, tensor(x))

    assert found.array.nbytes * 256 == x.nbytes
    assert found.array.shape == (2, PROJECTIONS)
    assert found.array[0].tolist()[:4] == FOR_EVER
    assert found.sketch.width == 4096


FOR_EVER = [40.0, 114.0, -82.0, 14.0]


def test_bfloat16_is_widened_and_float64_kept():
    x = values(3, 64)

    half = sketched(SITE, tensor(x.astype(ml_dtypes.bfloat16))).array
    double = sketched(SITE, tensor(x.astype(np.float64))).array

    assert (half.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(half, double, rtol=0.1, atol=0.3)


@pytest.mark.parametrize("stray", [np.nan, np.inf, -np.inf])
def test_a_stray_value_is_never_a_pass(stray):
    x = values(4, 64)
    y = x.copy()
    y[2, 5] = stray

    assert not estimate(y, x).total.is_sound
    assert estimate(y, x).total.rel_l2 == np.inf


def test_ids_and_short_tokens_are_kept_as_they_are():
    ids = Site(0, 0, "moe_router_indices")
    chosen = tensor(np.arange(64).reshape(2, 32), "t e")
    short = tensor(values(3, PROJECTIONS))

    assert sketched(ids, chosen) is chosen
    assert sketched(SITE, short) is short


def sketch_of(capture):
    tensors = {site: sketched(site, each) for site, each in capture.tensors.items()}
    return replace(capture, tensors=tensors, logits=())


@pytest.fixture
def wide():
    return {SITE: tensor(values(3, WIDTH)), HEADS: tensor(values(3, 4, 64), "t h d")}


def test_a_bundle_of_sketches_is_read_back_and_compared_with_a_live_capture(tmp_path, wide):
    live = make_capture(sites=tuple(wide), tensors=wide)
    write_bundle(sketch_of(live), tmp_path / "golden")

    golden = read_bundle(tmp_path / "golden")

    assert_same(sketch_of(live), golden)
    assert [each.sketch for each in golden.tensors.values()] == [
        each.sketch for each in sketch_of(live).tensors.values()
    ]
    for pair in ((live, golden), (golden, live), (golden, golden)):
        comparison = compare_captures(*pair)
        assert all(each.is_estimate for each in comparison.sites)
        assert max(each.total.rel_l2 for each in comparison.sites) < 1e-6
        assert not violations(comparison, parse_limits({"rel_l2": {"max": 1e-5}}))


def test_a_sketch_never_says_that_no_bit_differs(wide):
    golden = sketch_of(make_capture(sites=tuple(wide), tensors=wide))
    comparison = compare_captures(golden, golden)

    assert not any(each.is_identical for each in comparison.sites)
    with pytest.raises(AlignmentError, match="cannot be told from a sketch"):
        violations(comparison, parse_limits({"mismatched": {"max": 0}}))
    with pytest.raises(AlignmentError, match="a sketch, which cannot tell whether bits are equal"):
        conclude(golden, golden)
    assert conclude(golden, golden, expect={"rel_l2": {"max": 1e-5}}).standing is Standing.WITHIN


def test_sketches_of_other_signs_or_widths_are_refused():
    x = tensor(values(3, WIDTH))
    others = [sketched(SITE, x, seed=1), sketched(SITE, tensor(values(3, 512)))]

    for other in others:
        with pytest.raises(AlignmentError, match="sketches are of different tensors"):
            compare_tensors(other, sketched(SITE, x), site=SITE)
    with pytest.raises(AlignmentError):
        compare_tensors(tensor(values(3, 512)), sketched(SITE, x), site=SITE)
    with pytest.raises(AlignmentError, match="cannot be sketched"):
        sketched(SITE, make_tensor(SITE, array=values(3, 4, 5)))
