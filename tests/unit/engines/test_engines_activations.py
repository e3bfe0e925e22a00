"""8-bit activations: what goes into a product is what ggml's blocks keep of it."""

from __future__ import annotations

import numpy as np
import pytest
from engines_support import PROMPT, load
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.engines.activations import rounded

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3), blocks=st.integers(1, 4))
def test_it_keeps_what_the_blocks_of_gguf_keep(seed, scale, blocks):
    values = np.random.default_rng(seed).normal(size=(3, 32 * blocks)).astype(np.float32) * scale
    values = values.astype(np.float32)
    values[0] = 0

    kind = gguf.GGMLQuantizationType.Q8_0
    expected = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)

    np.testing.assert_array_equal(rounded(torch.from_numpy(values)).numpy(), expected)


def test_only_products_see_it_and_the_error_is_that_of_eight_bits(qwen2_tiny):
    stages = ("embedding", "attn_norm", "qkv_matmul", "ffn_silu", "ffn_out")
    plan = Plan(stages=stages, layers=(0,))

    exact = record(load("transformers", qwen2_tiny), PROMPT, plan)
    eight = record(load("transformers", qwen2_tiny, activations="q8"), PROMPT, plan)

    errors = {each.site.stage: each.total.rel_l2 for each in compare_captures(eight, exact).sites}
    assert errors["embedding"] == errors["attn_norm"] == 0
    assert 1e-3 < errors["qkv_matmul"] < 1e-2
    assert exact.identity.digest != eight.identity.digest
