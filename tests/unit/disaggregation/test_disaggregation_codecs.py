"""What a codec says of its error is true, for any values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pytest_falsify.disaggregation.codecs import Cast, Codec, Identity, Quantised, codec_named
from pytest_falsify.disaggregation.frames import to_array
from pytest_falsify.errors import ContractError

torch = pytest.importorskip("torch")
CODECS = {
    "identity": Identity(),
    "bfloat16": Cast("bfloat16"),
    "float16": Cast("float16"),
    "int8 a head": Quantised("int8"),
    "int8 a channel": Quantised("int8", "channel"),
    "fp8 a head": Quantised("fp8"),
    "fp8 a channel": Quantised("fp8", "channel"),
}
# Within float16's range, zeros and wide spreads included.
VALUES = arrays.arrays(
    np.float32,
    st.tuples(*(st.integers(1, 5),) * 3),
    elements=st.floats(-6e4, 6e4, width=32, allow_subnormal=False),
)


def returned(codec, sent):
    tensor = codec.decode(codec.encode(torch.from_numpy(sent.transpose(1, 0, 2).copy())))
    return to_array(tensor.float()).transpose(1, 0, 2).astype(np.float64)


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=60)
@given(sent=VALUES)
def test_no_value_is_further_off_than_the_codec_declares(name, sent):
    codec = CODECS[name]
    error = np.abs(returned(codec, sent) - sent)
    assert (error <= codec.bound(sent.astype(np.float64))).all()


@pytest.mark.parametrize("name", [name for name in CODECS if name != "identity"])
def test_a_bound_is_not_far_above_the_largest_error_that_occurs(name):
    sent = np.random.default_rng(1).normal(size=(512, 2, 16)).astype(np.float32)
    error = np.abs(returned(CODECS[name], sent) - sent)
    bound = CODECS[name].bound(sent.astype(np.float64))
    assert (error / bound).max() > 0.9


def test_nothing_bounds_a_value_that_is_not_finite():
    sent = np.full((1, 1, 2), np.nan, np.float32)
    for codec in CODECS.values():
        error = np.abs(returned(codec, sent) - sent)
        assert not (error <= codec.bound(sent.astype(np.float64))).any()


def test_a_user_brings_a_codec_by_its_name():
    assert isinstance(codec_named("pytest_falsify.disaggregation.codecs:Identity"), Codec)
    with pytest.raises(ContractError, match="is no codec"):
        codec_named("json:dumps")
    with pytest.raises(ContractError, match="cannot be loaded"):
        codec_named("json:nothing_there")
