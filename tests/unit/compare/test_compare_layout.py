"""Layout steps move values where their names say, and refuse what they were not written for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.compare.align import align
from pytest_falsify.compare.layout import (
    Join,
    Mask,
    Part,
    Repeat,
    Reverse,
    Select,
    Split,
    Unpad,
    apply_all,
    fused_qkv,
)
from pytest_falsify.errors import AlignmentError

PACKED = np.arange(3 * 8).reshape(3, 8)


def tensor(array, dims, positions=None, mask="none"):
    length = array.shape[dims.split().index("t")] if "t" in dims.split() else 0
    positions = tuple(range(length)) if positions is None else positions
    return CapturedTensor(array=array, dims=dims, positions=positions, mask=mask)


def values(tensor):
    return tensor.array.tolist()


@given(st.sampled_from([1, 2, 4, 8]))
def test_joining_what_was_split_gives_the_packed_axis(heads):
    split = Split(axis="d", into=("h", "d"), outer=heads).apply(tensor(PACKED, "t d"))
    assert (split.dims, split.array.shape) == ("t h d", (3, heads, 8 // heads))
    joined = Join(axes=("h", "d"), into="d").apply(split)
    assert (joined.dims, values(joined)) == ("t d", PACKED.tolist())


def test_heads_can_be_joined_from_a_head_major_tensor():
    head_major = PACKED.reshape(3, 2, 4).transpose(1, 0, 2)
    joined = Join(axes=("h", "d"), into="d").apply(tensor(head_major, "h t d"))
    assert values(joined) == PACKED.tolist()


def test_a_fused_qkv_comes_apart():
    q, k, v = (np.full((3, heads * 4), heads * 10 + n) for n, heads in enumerate((4, 2, 2)))
    fused = tensor(np.concatenate([q, k, v], axis=1), "t d")
    for part, expected, dims in (("q", q, "t h d"), ("k", k, "t k d"), ("v", v, "t k d")):
        found = apply_all(fused, fused_qkv(part, heads=4, kv_heads=2, head_dim=4))
        assert found.dims == dims
        assert values(found) == expected.reshape(3, -1, 4).tolist()


@pytest.mark.parametrize(("adjacent", "order"), [(True, [0, 0, 1, 1]), (False, [0, 1, 0, 1])])
def test_shared_heads_are_repeated(adjacent, order):
    keys = PACKED.reshape(3, 2, 4)
    found = Repeat(axis="k", into="h", times=2, adjacent=adjacent).apply(tensor(keys, "t k d"))
    assert (found.dims, values(found)) == ("t h d", keys[:, order].tolist())


def test_a_reversed_shape_is_read_without_moving_a_value():
    found = Reverse(dims="t d").apply(tensor(PACKED.reshape(8, 3), "d t"))
    assert (found.dims, values(found)) == ("t d", PACKED.tolist())


@pytest.mark.parametrize(("side", "kept"), [("left", [1, 2]), ("right", [0, 1])])
def test_padding_goes_and_positions_start_at_zero(side, kept):
    found = Unpad(count=1, side=side).apply(tensor(PACKED, "t d"))
    assert (values(found), found.positions) == (PACKED[kept].tolist(), (0, 1))


def test_padding_goes_from_the_sources_too():
    scores = np.arange(9).reshape(1, 3, 3)
    found = Unpad(count=1, side="left").apply(tensor(scores, "h t s"))
    assert values(found) == scores[:, 1:, 1:].tolist()


def test_tokens_are_selected_by_position():
    found = Select(positions=(9, 7)).apply(tensor(PACKED, "t d", positions=(7, 8, 9)))
    assert (values(found), found.positions) == (PACKED[[2, 0]].tolist(), (9, 7))


def test_the_future_is_masked_whatever_filled_it():
    scores = np.ones((2, 3, 3))
    scores[:, 0, 1:] = -1e9
    found = Mask().apply(tensor(scores, "h t s", mask="finite"))
    hidden = np.triu(np.ones((3, 3), bool), 1)
    assert (found.array == -np.inf).tolist() == [hidden.tolist()] * 2
    assert (found.array[:, ~hidden] == 1).all()
    assert (scores[:, 0, 1:] == -1e9).all()
    assert align(found, Mask().apply(tensor(np.ones((2, 3, 3)), "h t s")))


def test_a_decode_step_sees_all_that_came_before():
    found = Mask().apply(tensor(np.ones((2, 1, 5)), "h t s", positions=(4,)))
    assert (found.array == 1).all()
    windowed = Mask(window=2).apply(tensor(np.ones((1, 1, 5)), "h t s", positions=(4,)))
    assert values(windowed) == [[[-np.inf, -np.inf, -np.inf, 1, 1]]]


def test_a_window_and_a_full_mask_are_different_populations():
    scores = tensor(np.ones((2, 3, 3)), "h t s")
    with pytest.raises(AlignmentError, match="masked places"):
        align(Mask(window=2).apply(scores), Mask().apply(scores))


@pytest.mark.parametrize(
    "step",
    [
        Split(axis="d", into=("h", "d"), outer=3),
        Split(axis="x", into=("h", "d"), outer=2),
        Part(axis="d", start=4, stop=9),
        Part(axis="d", start=4, stop=4),
        Join(axes=("h", "d"), into="d"),
        Repeat(axis="k", into="h", times=2),
        Unpad(count=3, side="left"),
        Select(positions=(3,)),
        Select(positions=()),
        Mask(),
    ],
)
def test_another_layout_is_refused_with_its_description(step):
    with pytest.raises(AlignmentError, match="dims `t d`, shape 3x8"):
        step.apply(tensor(PACKED, "t d"))


def test_a_subject_with_fewer_tokens_is_compared_only_when_asked():
    oracle = tensor(PACKED, "t d", positions=(7, 8, 9))
    subject = tensor(PACKED[[2]], "t d", positions=(9,))
    with pytest.raises(AlignmentError, match="the tokens differ") as caught:
        align(subject, oracle)
    assert "token selection" in caught.value.remedy
    mine, theirs = align(subject, oracle, select_tokens=True)
    assert mine.tolist() == theirs.tolist() == PACKED[[2]].tolist()


def test_a_subject_with_other_tokens_is_refused_even_when_selection_is_allowed():
    oracle = tensor(PACKED, "t d", positions=(7, 8, 9))
    with pytest.raises(AlignmentError, match="the tokens differ"):
        align(tensor(PACKED[[2]], "t d", positions=(10,)), oracle, select_tokens=True)
