"""Layout steps as data: what they are read as, what they do to a capture, what they refuse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.unstated import unstated_capture
from pytest_falsify.compare.alignment import ALIGN_SCHEMA, WORDS, aligned, parse_alignments
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.contracts.schemas import Shape
from pytest_falsify.errors import AlignmentError, ContractError
from pytest_falsify.stages.vocabulary import Site

TOKENS, HEADS, WIDTH = 5, 4, 6
QUERY, SCORES = Site(0, 0, "q_post_rope"), Site(0, 0, "attn_scores")
TRUTH = np.random.default_rng(0).standard_normal((TOKENS, HEADS, WIDTH)).astype(np.float32)


def capture(array, dims, site=QUERY, positions=None, mask="none"):
    length = array.shape[dims.split().index("t")] if "t" in dims.split() else 0
    where = tuple(range(length)) if positions is None else positions
    tensor = CapturedTensor(array=array, dims=dims, positions=where, mask=mask)
    return unstated_capture({site: tensor}, source="a test")


def compared(subject, *steps, oracle=None, of_oracle=()):
    """Bring the subject and the oracle into shape and return the comparison of the one site."""
    stated = {"subject": list(steps)} | ({"oracle": list(of_oracle)} if of_oracle else {})
    assert not list(Shape(ALIGN_SCHEMA).violations(stated))
    sides = {"subject": subject, "oracle": oracle or capture(TRUTH, "t h d")}
    found = aligned(sides, parse_alignments(stated))
    return compare_captures(found["subject"], found["oracle"]).sites[0]


FUSED = np.concatenate([TRUTH.reshape(TOKENS, -1), np.zeros((TOKENS, 24), np.float32)], axis=1)
PADDED = np.concatenate([np.full((2, HEADS, WIDTH), 9, np.float32), TRUTH])
WRITTEN = {
    "head-major, and says so": (capture(TRUTH.transpose(1, 0, 2), "h t d"), []),
    "head-major under the dims of its stage": (
        capture(TRUTH.transpose(1, 0, 2), "t h d"),
        [{"rename": {"dims": "h t d"}}],
    ),
    "head-major, in a file without a shape": (
        capture(np.ascontiguousarray(TRUTH.transpose(1, 0, 2)).reshape(TRUTH.shape), "t h d"),
        [{"order": {"dims": "h t d"}}],
    ),
    "packed": (
        capture(TRUTH.reshape(TOKENS, -1), "t d"),
        [{"split": {"axis": "d", "into": ["h", "d"], "outer": HEADS}}],
    ),
    "fused with k and v": (
        capture(FUSED, "t d"),
        [{"fused_qkv": {"part": "q", "heads": HEADS, "kv_heads": 2, "head_dim": WIDTH}}],
    ),
    "with ggml's ne": (
        capture(TRUTH.reshape(WIDTH, HEADS, TOKENS), "d h t"),
        [{"reverse": {"dims": "t h d"}}],
    ),
    "padded on the left": (capture(PADDED, "t h d"), [{"unpad": {"count": 2, "side": "left"}}]),
}


@pytest.mark.parametrize("layout", [name for name in WRITTEN if name != "head-major, and says so"])
def test_what_was_written_otherwise_is_brought_back_bit_for_bit(layout):
    subject, steps = WRITTEN[layout]
    assert compared(subject, *steps).is_identical


def test_axes_that_say_their_order_need_no_step():
    subject, _ = WRITTEN["head-major, and says so"]
    assert compare_captures(subject, capture(TRUTH, "t h d")).sites[0].is_identical


def test_shared_heads_are_repeated_as_the_contract_says():
    keys = TRUTH[:, :2]
    steps = {"axis": "k", "into": "h", "times": 2}
    adjacent = capture(TRUTH[:, [0, 0, 1, 1]], "t h d")
    assert compared(capture(keys, "t k d"), {"repeat": steps}, oracle=adjacent).is_identical
    apart = {"repeat": {**steps, "adjacent": False}}
    assert not compared(capture(keys, "t k d"), apart, oracle=adjacent).is_identical


def test_both_sides_can_be_masked_or_cut_to_some_tokens():
    scores = np.random.default_rng(1).standard_normal((2, 3, 3))
    filled = scores.copy()
    filled[:, np.triu(np.ones((3, 3), bool), 1)] = -1e9
    mine = capture(filled, "h t s", SCORES, mask="finite")
    theirs = capture(scores, "h t s", SCORES)
    steps = [{"stages": ["attn_scores"], "mask": {}}]
    assert compared(mine, *steps, oracle=theirs, of_oracle=steps).is_identical
    cut = [{"select": {"positions": [4]}}]
    last = capture(TRUTH[4:], "t h d", positions=(4,))
    assert compared(last, {"rename": {"dims": "t h d"}}, of_oracle=cut).positions == (4,)


@pytest.mark.parametrize(
    ("layout", "wrong"),
    [
        ("packed", {"split": {"axis": "d", "into": ["h", "d"], "outer": 5}}),
        ("packed", {"order": {"dims": "t h d"}}),
        ("fused with k and v", {"part": {"axis": "d", "start": 0, "stop": 99}}),
        ("padded on the left", {"unpad": {"count": 7, "side": "left"}}),
        ("with ggml's ne", {"reverse": {"dims": "t d"}}),
    ],
)
def test_a_wrong_alignment_is_refused_with_both_sides_described(layout, wrong):
    with pytest.raises(AlignmentError) as caught:
        compared(WRITTEN[layout][0], wrong)
    assert "step 1 of the subject's `align`" in caught.value.what
    assert "\n  subject: dims" in caught.value.what
    assert "\n  oracle:  dims `t h d`, shape 5x4x6 float32, tokens 0..4" in caught.value.what


def test_an_alignment_that_fits_but_leaves_other_axes_is_refused_by_the_comparison():
    halved = {"split": {"axis": "d", "into": ["k", "d"], "outer": HEADS}}
    with pytest.raises(AlignmentError, match=r"the axes differ\n  subject: dims `t k d`"):
        compared(WRITTEN["packed"][0], halved)


def test_heads_read_in_the_wrong_order_are_found_different():
    subject, _ = WRITTEN["head-major, in a file without a shape"]
    assert not compared(subject, {"order": {"dims": "t h d"}}).is_identical


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"control": [{"mask": {}}]}, "subject or oracle"),
        ({"subject": [{"stages": ["ffn_up"], "mask": {}}]}, "shows: q_post_rope"),
    ],
)
def test_a_step_that_concerns_nothing_is_an_error(stated, expected):
    sides = {side: capture(TRUTH, "t h d") for side in ("subject", "oracle")}
    with pytest.raises(ContractError) as caught:
        aligned(sides, parse_alignments(stated))
    assert expected in caught.value.expected


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"stages": ["q_post_rope"]},
        {"mask": {}, "rename": {"dims": "t d"}},
        {"stages": ["q_post_ope"], "mask": {}},
        {"split": {"axis": "d", "into": ["h", "d"]}},
        {"split": {"axis": "d", "into": ["h", "d"], "outer": 0}},
        {"rename": {"dims": "t, d"}},
        {"turn": {}},
    ],
)
def test_what_is_no_step_is_refused_at_load(entry):
    assert list(Shape(ALIGN_SCHEMA).violations({"subject": [entry]}))


@given(st.permutations("thd"))
def test_reading_in_another_order_and_back_moves_nothing(axes):
    orders = [{"order": {"dims": " ".join(axes)}}, {"order": {"dims": "t h d"}}]
    assert compared(capture(TRUTH, "t h d"), *orders).is_identical


def test_every_word_says_what_it_does():
    assert all(word.description for word in WORDS.values())
