"""Honest transfers are never accused, and what stays within a codec's bound is still found."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_falsify.captures.capture import Capture, CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.disaggregation.codecs import codec_named
from pytest_falsify.disaggregation.frames import to_array, to_tensor
from pytest_falsify.disaggregation.legs import Leg, excess, named
from pytest_falsify.stages.vocabulary import TRANSFER, Site

pytest.importorskip("torch")
SENT, ARRIVED = Site(0, 0, "k_cache"), Site(TRANSFER, 0, "k_cache")
OPTIONS = [
    {},
    {"codec": "bfloat16"},
    {"codec": "float16"},
    {"codec": "int8"},
    {"codec": "int8", "per": "channel"},
    {"codec": "fp8"},
    {"codec": "fp8", "per": "channel"},
]


def described(array):
    return CapturedTensor(array=array, dims="t k d", positions=tuple(range(len(array))))


def judged(sent, options, *, dtype=np.float32, change=lambda array: array):
    """Return what is beyond in what arrives of (tokens, heads, channels)."""
    sent = sent.astype(dtype)
    codec = codec_named(options.get("codec", "identity"), per=options.get("per", "head"))
    coded = codec.decode(codec.encode(to_tensor(sent.transpose(1, 0, 2).copy())))
    received = to_array(coded.float()).transpose(1, 0, 2).astype(dtype)
    capture = Capture(
        identity=Identity(
            engine="disaggregated", versions={}, weights="w", device="cpu",
            settings={"transfer": options},
        ),
        inputs=TokenInputs(name="prompt", tokens=tuple(range(len(sent)))),
        plan=Plan(),
        tensors={SENT: described(sent)},
        logits=(),
    )  # fmt: skip
    return excess(capture, ARRIVED, described(change(received.copy())))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@settings(max_examples=10)
@given(
    seed=st.integers(0, 10_000),
    tokens=st.sampled_from([1, 2, 9, 64, 700]),
    shape=st.sampled_from(["normal", "laplace", "uniform", "equal rows"]),
)
def test_an_honest_transfer_is_never_accused(options, dtype, seed, tokens, shape):
    dice = np.random.default_rng(seed)
    sent = getattr(dice, shape.replace("equal rows", "normal"))(size=(tokens, 2, 16))
    if shape == "equal rows":  # a text of one word: its roundings are equal too
        sent[:] = sent[:1]
    assert judged(sent, options, dtype=dtype) is None


def scaled(factor):
    def change(array):
        array[:, 1] *= factor
        return array

    return change


@pytest.mark.parametrize("options", OPTIONS)
def test_a_scale_within_the_bound_of_every_value_is_found(options):
    sent = np.random.default_rng(2).normal(size=(300, 2, 16))
    found = judged(sent, options, change=scaled(1.03))
    assert found is not None
    assert found.head == 1


def test_the_scale_of_a_head_is_told_without_a_position():
    sent = np.random.default_rng(2).normal(size=(300, 2, 16))
    # Rounded towards zero by less than fp8's bound, at every value of the head.
    found = judged(sent, {"codec": "fp8"}, change=lambda _: shrunk(sent))
    assert found.position is None
    assert found.head == 1
    assert found.error == pytest.approx(-0.02, rel=0.01)


def shrunk(sent):
    array = sent.astype(np.float32)
    array[:, 1] *= np.float32(0.98)
    return array


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_arrives_and_is_not_finite_is_beyond_every_bound(value):
    def change(array):
        array[4, 0, 3] = value
        return array

    for options in OPTIONS:
        found = judged(np.ones((9, 2, 4)), options, change=change)
        assert (found.head, found.position, found.count) == (0, 4, 1)


def test_a_nan_that_was_sent_is_not_the_transfers():
    sent = np.random.default_rng(2).normal(size=(9, 2, 4))
    sent[1, 0, 0] = np.nan
    assert judged(sent, {"codec": "int8"}) is None
    assert judged(sent, {"codec": "int8"}, change=scaled(2)).head == 1


def test_the_first_leg_is_named():
    assert named([]) == "none"
    assert named([Leg.DECODE, Leg.TRANSFER]) == "transfer"
