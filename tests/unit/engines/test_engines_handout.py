"""Tensors that wait on a device until the step ends are handed out as if they had not.

The buffer, the order and the alignment are the same on every device; pinned memory and the stream
of copies exist on CUDA alone, and ``tests/gpu`` is about them.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from pytest_falsify.stages.vocabulary import Site

torch = pytest.importorskip("torch")

from pytest_falsify.engines.handout import HandOut, Member, Stopped, to_host  # noqa: E402

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
