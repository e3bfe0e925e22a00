"""Captures as values, for tests of what is written and read."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from pytest_falsify.captures.capture import Capture, CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.stages.vocabulary import STAGES, Site

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TOKENS = (5, 3, 8)
SHAPES = {"d": 4, "h": 2, "k": 1, "s": 3, "v": 6, "e": 4}
SITES = (
    Site(0, None, "embedding"),
    Site(0, 0, "q_post_rope"),
    Site(0, 0, "attn_out"),
    Site(0, 1, "attn_out"),
    Site(0, None, "final_norm"),
    Site(0, None, "lm_head"),
)


def make_tensor(site, *, seed=0, dtype=np.float32, array=None, tokens=TOKENS) -> CapturedTensor:
    dims = STAGES[site.stage].dims
    shape = [len(tokens) if name == "t" else SHAPES[name] for name in dims.split()]
    if array is None:
        array = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    return CapturedTensor(array=array, dims=dims, positions=tuple(range(len(tokens))))


def make_capture(*, sites=SITES, dtype=np.float32, tensors=None, logits=(), **more) -> Capture:
    stages = {site.stage for site in sites}
    made = {site: make_tensor(site, seed=index, dtype=dtype) for index, site in enumerate(sites)}
    facts = {
        "identity": Identity(
            engine="e",
            versions={"lib": "1.0"},
            weights="sha256:" + "0" * 64,
            settings={"dtype": str(np.dtype(dtype))},
            device="cpu",
            device_name="CPU",
        ),
        "inputs": TokenInputs(name="prompt", tokens=TOKENS),
        "plan": Plan(stages=tuple(name for name in STAGES if name in stages), layers=(0, 1)),
        "tensors": made if tensors is None else tensors,
        "logits": tuple(logits),
    }
    return Capture(**(facts | more))


def bits(array: np.ndarray) -> tuple:
    return array.dtype.name, array.shape, array.tobytes()


def assert_same(expected: Capture, found: Capture) -> None:
    """Equal in every bit and in every word."""
    assert expected.identity == found.identity
    assert expected.inputs == found.inputs
    assert expected.plan == found.plan
    assert expected.missing == found.missing
    assert expected.continuation == found.continuation
    assert list(expected.tensors) == list(found.tensors)
    for site, each in expected.tensors.items():
        other = found.tensors[site]
        assert bits(each.array) == bits(other.array), site
        assert (each.dims, each.positions, each.mask) == (other.dims, other.positions, other.mask)
    assert [bits(each) for each in expected.logits] == [bits(each) for each in found.logits]
