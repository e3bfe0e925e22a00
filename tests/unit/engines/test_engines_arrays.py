"""What torch computes for others is what NumPy would have computed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.sketch import sketched
from pytest_falsify.engines.arrays import multiply
from pytest_falsify.stages.vocabulary import Site

SITE = Site(0, 0, "attn_out")
DTYPES = (np.float16, np.float32, np.float64)


@given(
    tokens=st.integers(1, 9),
    width=st.integers(17, 200),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_a_sketch_by_torch_is_that_by_numpy_but_for_rounding(tokens, width, dtype, seed):
    values = np.random.default_rng(seed).normal(size=(tokens, width)).astype(dtype)
    tensor = CapturedTensor(array=values, dims="t d", positions=tuple(range(tokens)))

    one, other = sketched(SITE, tensor, multiply=multiply), sketched(SITE, tensor)

    most = width * np.abs(values).max() * np.finfo(other.array.dtype).eps
    assert one.array.dtype == other.array.dtype
    np.testing.assert_allclose(one.array, other.array, rtol=0, atol=most)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_visible_in_its_token(value):
    values = np.ones((3, 40), np.float32)
    values[1, 7] = value
    tensor = CapturedTensor(array=values, dims="t d", positions=(0, 1, 2))

    found = sketched(SITE, tensor, multiply=multiply).array

    assert not np.isfinite(found[1]).any()
    assert np.isfinite(found[[0, 2]]).all()
