"""Tensors that wait on a device until the step ends are handed out as if they had not.

The buffer, the order and the alignment are the same on every device; pinned memory and the stream
of copies exist on CUDA alone, and ``tests/gpu`` is about them.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import Site

torch = pytest.importorskip("torch")

from pytest_falsify.captures.sketch import Sketching  # noqa: E402
from pytest_falsify.engines.handout import (  # noqa: E402
    Channels,
    HandOut,
    Member,
    Stopped,
    to_host,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64)


def member(**more):
    return Member(**{"index": 0, "positions": (0, 1, 2), "columns": 3, **more})


def handed_out(tensors, *, waits, members=None):
    seen = []
    out = HandOut(waits=waits)
    out.begin(0, ((each, lambda *got: seen.append(got)) for each in members or [member()]))
    for layer, tensor in enumerate(tensors):
        out.show(layer, "attn_out", tensor)
        tensor.zero_()  # as a model may do after it was shown
    out.finish()
    return seen


def tensors():
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(2, 3, 5, generator=generator).to(dtype) for dtype in DTYPES]
    return [*made, torch.randn(2, 5, 3, generator=generator).transpose(1, 2)]


def test_what_waited_is_what_would_have_come_at_once():
    at_once = handed_out(tensors(), waits=False)
    waited = handed_out(tensors(), waits=True)

    assert [site for site, _ in waited] == [Site(0, layer, "attn_out") for layer in range(6)]
    for (_, one), (_, other), source in zip(at_once, waited, tensors(), strict=True):
        assert one.array.dtype == other.array.dtype
        assert one.array.tobytes() == other.array.tobytes()
        assert other.array.flags.c_contiguous
        assert one.positions == other.positions == (0, 1, 2)
        expected = source[0].float().numpy()
        np.testing.assert_array_equal(one.array.astype(np.float32), expected)


def test_nothing_is_handed_out_before_the_step_ends():
    seen = []
    out = HandOut(waits=True)
    out.begin(0, [(member(), lambda *got: seen.append(got))])

    out.show(0, "attn_out", tensors()[0])
    assert seen == []
    out.finish()
    out.finish()
    assert len(seen) == 1


def test_tensors_of_all_dtypes_share_one_aligned_buffer():
    arrays = to_host([each[0] for each in tensors()])

    assert [each.dtype for each in arrays[:2]] == [np.float32, ml_dtypes.bfloat16]
    starts = [each.__array_interface__["data"][0] for each in arrays]
    assert all(start % 64 == 0 for start in starts)
    assert max(starts) - min(starts) < 6 * 128 + 15 * 8
    assert to_host([]) == []


@pytest.mark.parametrize("chosen", [(2,), (0, 1), (0, 2), (0, 1, 2)])
def test_chosen_rows_are_those_of_the_tensor(chosen):
    (_, found), *_ = handed_out(tensors()[:1], waits=False, members=[member(chosen=chosen)])

    np.testing.assert_array_equal(found.array, tensors()[0][0].numpy()[list(chosen)])
    assert found.positions == chosen


@pytest.mark.parametrize(("shown", "first"), [(9, 4), (7, 2), (5, 0), (3, 0)])
def test_a_sliding_window_has_lost_the_oldest_columns_padding_first(shown, first):
    """Nine columns so far, four of them padding; the window shows the last few."""
    cache = torch.arange(9.0).reshape(1, 9, 1, 1)[:, -shown:]
    own = member(positions=(4,), columns=9, padding=(4, 0))

    part, positions = own.own("k_cache", cache)

    expected = list(range(9))[-shown:][first:]
    assert part.flatten().tolist() == expected
    assert positions == tuple(each - 4 for each in expected)


def test_a_step_that_has_shown_enough_is_stopped_and_its_last_tensor_is_kept():
    seen = []
    out = HandOut(waits=True)
    out.begin(0, [(member(), lambda *got: seen.append(got))], last=2)
    out.show(0, "attn_out", tensors()[0])
    with pytest.raises(Stopped):
        out.show(1, "attn_out", tensors()[0])
    out.finish()

    assert [site.layer for site, _ in seen] == [0, 1]


def test_a_sink_that_borrows_is_given_the_model_s_own_memory():
    class Looking:
        borrows = True

        def __call__(self, site, tensor):
            self.address = tensor.array.__array_interface__["data"][0]

    sink, tensor = Looking(), tensors()[0]
    out = HandOut()
    out.begin(0, [(member(), sink)])
    out.show(0, "attn_out", tensor)

    assert sink.address == tensor.data_ptr()


class Keeping:
    """Keeps what it is given."""

    def __init__(self):
        self.seen = {}

    def __call__(self, site, tensor, /):
        self.seen[site] = tensor


class Borrowing(Keeping):
    """Looks at what it is given, and copies what it saw for the test alone."""

    borrows = True

    def __call__(self, site, tensor, /):
        self.seen[site] = replace(tensor, array=tensor.array.copy())


PADDED = (
    Member(index=0, positions=(0, 1, 2, 3), columns=4),
    Member(index=3, positions=(0, 1, 2, 3), columns=4),
    Member(index=1, positions=(0, 1), columns=4, fed=slice(2, 4), padding=(2, 0)),
    Member(index=2, positions=(0, 1), columns=4, fed=slice(2, 4), padding=(2, 0), chosen=(1,)),
)


def in_parts(layers, ends, *, waits, sink):
    """Return what sinks saw of two stages of some layers, whose channels came part by part."""
    sinks = [sink() for _ in PADDED]
    out = HandOut(waits=waits)
    out.begin(0, zip(PADDED, sinks, strict=True))
    for layer, whole in enumerate(layers):
        for first, end in pairwise((0, *ends, whole.shape[-1])):
            for stage, factor in (("qkv_matmul", 1), ("qkv_bias", -1)):
                part = whole[..., first:end] * factor
                channels = Channels(first, end, whole.shape[-1])
                out.show(layer, stage, part, channels if ends else None)
                part.zero_()  # as a model may do after it was shown
    out.finish()
    return [each.seen for each in sinks]


@given(
    ends=st.sampled_from([(1,), (20,), (20, 30), (16, 17, 39)]),
    dtype=st.sampled_from(DTYPES[:-1]),
    waits=st.booleans(),
    sink=st.sampled_from([Keeping, Borrowing, Sketching]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_a_tensor_that_comes_in_parts_is_handed_out_as_the_whole(ends, dtype, waits, sink, seed):
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.randn(4, 4, 40, generator=generator).to(dtype) for _ in range(2)]

    at_once = in_parts(layers, (), waits=waits, sink=sink)
    found = in_parts(layers, ends, waits=waits, sink=sink)

    for one, other in zip(at_once, found, strict=True):
        assert one.keys() == other.keys()
        assert len(one) == 4
        for site, expected in one.items():
            assert replace(expected, array=None) == replace(other[site], array=None)
            assert other[site].array.dtype == expected.array.dtype
            if sink is Sketching:
                np.testing.assert_allclose(other[site].array, expected.array, atol=1e-4)
            else:
                assert other[site].array.tobytes() == expected.array.tobytes()
                assert other[site].array.flags.c_contiguous


@pytest.mark.parametrize("waits", [False, True])
def test_what_is_no_larger_than_its_sketch_is_kept_when_it_comes_in_parts_too(waits):
    (found, *_) = in_parts(
        [torch.arange(256.0).reshape(4, 4, 16)], (5,), waits=waits, sink=Sketching
    )

    kept = found[Site(0, 0, "qkv_matmul")]
    assert kept.sketch is None
    np.testing.assert_array_equal(kept.array, np.arange(64.0).reshape(4, 16))


def test_a_run_that_ends_at_a_tensor_in_parts_takes_all_of_them():
    sink = Keeping()
    out = HandOut()
    out.begin(0, [(member(), sink)], last=1)
    out.show(0, "qkv_bias", torch.ones(1, 3, 2), Channels(0, 2, 5))
    assert not sink.seen
    with pytest.raises(Stopped):
        out.show(0, "qkv_bias", torch.zeros(1, 3, 3), Channels(2, 5, 5))

    np.testing.assert_array_equal(
        sink.seen[Site(0, 0, "qkv_bias")].array, [[1.0, 1.0, 0.0, 0.0, 0.0]] * 3
    )


def test_what_sinks_keep_of_tensors_in_parts_shares_no_memory():
    whole = torch.randn(4, 4, 40)
    found = in_parts([whole, whole], (7,), waits=False, sink=Keeping)

    arrays = [tensor.array for seen in found for tensor in seen.values()]
    for index, one in enumerate(arrays):
        assert not any(np.shares_memory(one, other) for other in arrays[index + 1 :])


@pytest.mark.parametrize("sink", [Keeping, Sketching])
@pytest.mark.parametrize("came", [[(20, 40)], [(0, 20), (30, 40)], [(0, 20), (0, 20)]])
def test_a_tensor_of_which_a_part_did_not_come_is_refused(sink, came):
    taker, out = sink(), HandOut()
    out.begin(0, [(member(), taker)])
    parts = [(torch.ones(1, 3, end - first), Channels(first, end, 40)) for first, end in came]
    for part, channels in parts[:-1]:
        out.show(0, "qkv_bias", part, channels)
    with pytest.raises(CaptureError, match=r"0/0/qkv_bias: channels from \d+ came out of turn"):
        out.show(0, "qkv_bias", *parts[-1])
    out.finish()

    assert not taker.seen
