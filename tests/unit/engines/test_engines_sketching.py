"""A sketch that an engine makes where the tensor is, is the one that NumPy makes of the tensor."""

from __future__ import annotations

import numpy as np
import pytest
from engines_support import PROMPT, load
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.captures.sketch import DIMS, Sketching, sketched
from pytest_falsify.engines.handout import HandOut, Member
from pytest_falsify.errors import AlignmentError
from pytest_falsify.stages.vocabulary import STAGES, Site

torch = pytest.importorskip("torch")

from pytest_falsify.engines import sketching  # noqa: E402

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def handed_out(stage, batch, *, waits, members=None, sink=Sketching):
    """Return what sinks were given of one tensor."""
    tokens = batch.shape[1 + STAGES[stage].dims.split().index("t")]
    known = members or [Member(index=0, positions=tuple(range(tokens)), columns=tokens)]
    sinks = [sink() for _ in known]
    out = HandOut(waits=waits)
    out.begin(0, zip(known, sinks, strict=True))
    out.show(2, stage, batch)
    batch.zero_()  # as a model may do after it was shown
    out.finish()
    return [each.seen[Site(0, 2, stage)] for each in sinks]


@given(
    shape=st.sampled_from(
        [("attn_out", (1, 5, 200)), ("q_post_rope", (1, 5, 3, 40)), ("attn_scores", (1, 3, 5, 40))]
    ),
    dtype=st.sampled_from(DTYPES),
    waits=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_a_sketch_by_torch_is_that_by_numpy_but_for_rounding(shape, dtype, waits, seed):
    stage, lengths = shape
    values = torch.randn(lengths, generator=torch.Generator().manual_seed(seed)).to(dtype)
    exact = values[0].double().numpy()
    plain = CapturedTensor(array=exact, dims=STAGES[stage].dims, positions=tuple(range(5)))
    expected = sketched(Site(0, 2, stage), plain)

    (found,) = handed_out(stage, values.clone(), waits=waits)

    assert found.array.dtype == (np.float64 if dtype is torch.float64 else np.float32)
    assert (found.dims, found.positions) == (DIMS, tuple(range(5)))
    assert found.sketch == expected.sketch
    most = expected.sketch.width * np.abs(exact).max() * np.finfo(found.array.dtype).eps
    np.testing.assert_allclose(found.array, expected.array, rtol=0, atol=most)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_visible_in_its_token(value, waits):
    values = torch.ones(1, 3, 40)
    values[0, 1, 7] = value

    (found,) = handed_out("attn_out", values, waits=waits)

    assert not np.isfinite(found.array[1]).any()
    assert np.isfinite(found.array[[0, 2]]).all()


@pytest.mark.parametrize("waits", [False, True])
def test_sketches_wait_until_the_step_ends_and_share_one_buffer(waits):
    sink, out = Sketching(), HandOut(waits=waits)
    out.begin(0, [(Member(index=0, positions=(0, 1, 2), columns=3), sink)])
    for layer in range(3):
        out.show(layer, "attn_out", torch.full((1, 3, 40), float(layer)))
    assert sink.seen == {}

    out.finish()

    arrays = [each.array for each in sink.seen.values()]
    assert [site.layer for site in sink.seen] == [0, 1, 2]
    np.testing.assert_array_equal(arrays[2], 2 * arrays[1])
    starts = [each.__array_interface__["data"][0] for each in arrays]
    assert np.diff(starts).tolist() == [3 * 16 * 4] * 2


@pytest.mark.parametrize("waits", [False, True])
def test_what_is_no_larger_than_its_sketch_is_kept_as_it_was(waits):
    values = torch.arange(48.0).reshape(1, 3, 16)

    (found,) = handed_out("attn_out", values.clone(), waits=waits)

    assert found.sketch is None
    np.testing.assert_array_equal(found.array, values[0].numpy())


def test_each_sequence_of_a_padded_batch_is_sketched_without_its_padding():
    values = torch.randn(2, 4, 50)
    members = [
        Member(index=0, positions=(0, 1, 2, 3), columns=4),
        Member(index=1, positions=(0, 1), columns=4, fed=slice(2, 4), padding=(2, 0)),
    ]

    whole, short = handed_out("attn_out", values.clone(), waits=False, members=members)

    for found, rows in ((whole, values[0]), (short, values[1, 2:])):
        alone = handed_out("attn_out", rows[None].clone(), waits=False)[0]
        np.testing.assert_allclose(found.array, alone.array, rtol=1e-5, atol=1e-5)
        assert found.positions == alone.positions


def test_a_sketch_is_multiplied_in_full_precision_whatever_the_model_runs_with(monkeypatch):
    usual, seen = torch.mm, []

    def mm(*given):
        seen.append(torch.get_float32_matmul_precision())
        return usual(*given)

    monkeypatch.setattr(torch, "mm", mm)
    torch.set_float32_matmul_precision("medium")
    try:
        handed_out("attn_out", torch.randn(1, 3, 40), waits=False)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest"]


def test_a_tensor_that_does_not_have_the_axes_of_its_stage_is_refused():
    with pytest.raises(AlignmentError, match=r"attn_out cannot be sketched: .* shape 3x40x2"):
        sketching.sketch_of("attn_out", torch.zeros(3, 40, 2))


def test_sketches_of_a_run_are_those_of_its_tensors(qwen2_tiny):
    session = load("transformers", qwen2_tiny)
    plan = Plan(stages=(*session.stages, "attn_scores", "attn_softmax"), decode_steps=2)

    whole = record(session, PROMPT, plan)
    sketches = record(session, PROMPT, plan, is_sketch=True)

    assert sketches.tensors.keys() == whole.tensors.keys()
    for site, tensor in whole.tensors.items():
        expected, found = sketched(site, tensor), sketches.tensors[site]
        assert (found.sketch, found.dims, found.mask) == (
            expected.sketch, expected.dims, expected.mask,
        )  # fmt: skip
        scale = np.abs(expected.array).max()
        np.testing.assert_allclose(found.array, expected.array, rtol=0, atol=2e-5 * scale)
