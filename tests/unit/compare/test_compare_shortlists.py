"""Bounds of what shortlists leave open are bounds: of the truth, however little is told."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.captures.shortlist import (
    Shortlist,
    shortlists_from_json,
    shortlists_to_json,
)
from pytest_falsify.compare.distribution import js_divergence, kl_divergence, top_k_divergence
from pytest_falsify.compare.shortlists import (
    RESOLUTION,
    js_bounds,
    kl_bounds,
    told_changes,
    top_k_bounds,
)
from pytest_falsify.compare.tokens import Choice, top_changes

SIZE = 12
logits = st.lists(st.floats(-12, 12, allow_subnormal=False), min_size=SIZE, max_size=SIZE).map(
    np.array
)
distinct = st.permutations(range(SIZE)).map(lambda order: np.array(order) * 0.7 - 3)
lengths = st.integers(1, SIZE)


@st.composite
def pairs(draw):
    """Logits of an oracle, and of a subject that is near to it or has nothing to do with it."""
    oracle = draw(logits)
    seed, scale = draw(st.integers(0, 999)), draw(st.sampled_from([0.01, 0.3, 2.0]))
    near = oracle / 3 + np.random.default_rng(seed).normal(scale=scale, size=SIZE)
    return draw(st.sampled_from([(oracle / 3, near), (oracle, draw(logits))]))


def short(values, count):
    """What a server tells of logits: float32, and so many of the best."""
    whole = Shortlist.of_logits(values)
    rounded = tuple(float(np.float32(each)) for each in whole.logprobs)
    return Shortlist(tokens=whole.tokens, logprobs=rounded, vocabulary=SIZE).best(count)


def truth(measure, oracle, subject, *more):
    return float(measure(oracle[np.newaxis], subject[np.newaxis], *more)[0])


@given(pair=pairs(), told=lengths, known=lengths)
def test_kl_is_between_its_bounds(pair, told, known):
    oracle, subject = pair
    bounds = kl_bounds(short(oracle, told), short(subject, known))

    assert bounds.low <= truth(kl_divergence, oracle, subject) <= bounds.high


@given(pair=pairs(), told=lengths, known=lengths)
def test_js_is_between_its_bounds(pair, told, known):
    oracle, subject = pair
    bounds = js_bounds(short(oracle, told), short(subject, known))

    assert bounds.low <= truth(js_divergence, oracle, subject) <= bounds.high <= math.log(2)


@given(oracle=distinct, subject=logits, told=lengths, known=lengths, k=st.integers(1, SIZE))
def test_top_k_is_between_its_bounds(oracle, subject, told, known, k):
    bounds = top_k_bounds(short(oracle, told), short(subject, known), k)

    assert bounds.low <= truth(top_k_divergence, oracle, subject, k) <= bounds.high


@given(oracle=logits, subject=logits)
def test_whole_lists_leave_nothing_open(oracle, subject):
    lists = short(oracle, SIZE), short(subject, SIZE)

    for bounds in (kl_bounds(*lists), js_bounds(*lists), top_k_bounds(*lists, 3)):
        assert bounds.high - bounds.low <= 1e-3


def test_lists_that_have_nothing_in_common_are_far_apart():
    oracle, subject = np.zeros(SIZE), np.zeros(SIZE)
    oracle[:3], subject[-3:] = 9, 9

    bounds = kl_bounds(short(oracle, 3), short(subject, 3))

    assert bounds.low > 5


def test_a_tail_that_rounding_hides_is_not_taken_for_none():
    oracle = Shortlist(tokens=(0, 1), logprobs=(math.log(0.4995),) * 2, vocabulary=3)
    subject = Shortlist(tokens=(0, 1), logprobs=(math.log(0.5) + 1e-7,) * 2, vocabulary=3)

    bounds = kl_bounds(oracle, subject)

    assert subject.tail == 0
    assert bounds.low < 0.001 * math.log(0.001 / 1e-6)


def test_mass_that_leaves_the_list_is_not_forgiven():
    """The case of a tool that sums over common tokens alone, and finds less than nothing."""
    oracle = Shortlist(tokens=(1, 2), logprobs=(math.log(0.5), math.log(0.3)))
    subject = Shortlist(tokens=(2, 1), logprobs=(math.log(0.38), math.log(0.6)))

    bounds = kl_bounds(oracle, subject)

    assert bounds.low == pytest.approx(0.298, abs=1e-3)
    assert bounds.high == math.inf


def test_equal_lists_may_still_hide_a_difference():
    oracle = short(np.arange(SIZE, dtype=float), 5)

    assert kl_bounds(oracle, oracle).low == 0
    assert kl_bounds(oracle, oracle).high == math.inf
    assert 0 < js_bounds(oracle, oracle).high < math.log(2)
    assert top_k_bounds(oracle, oracle, 5).high < 5 * RESOLUTION
    assert top_k_bounds(oracle, oracle, 6).high == math.inf


@pytest.mark.parametrize("measure", [kl_bounds, js_bounds, lambda x, y: top_k_bounds(x, y, 2)])
def test_what_is_no_distribution_is_infinitely_far(measure):
    good = short(np.arange(SIZE, dtype=float), 5)
    for broken in (math.nan, 0.5):
        bad = Shortlist.of([*enumerate(good.logprobs[1:]), (11, broken)], SIZE)

        assert measure(good, bad).low == measure(bad, good).low == math.inf


@given(oracle=distinct, subject=distinct, k=st.integers(1, SIZE - 1))
def test_whole_lists_change_as_logits_do(oracle, subject, k):
    whole = [Shortlist.of_logits(each) for each in (subject, oracle)]

    found = {(each.change.subject, each.choice) for each in told_changes(*whole, k=k)}

    expected = top_changes(subject[np.newaxis], oracle[np.newaxis], k=k)
    assert found == {(each.subject, each.choice) for each in expected}


@given(oracle=logits, subject=logits, k=st.integers(1, 4), told=st.integers(4, SIZE))
def test_a_short_list_claims_no_more_than_a_whole_one(oracle, subject, k, told):
    short_ = told_changes(short(subject, told), short(oracle, told), k=k)
    whole = told_changes(short(subject, SIZE), short(oracle, SIZE), k=k)

    margins = {each.change.subject: each.change.margin for each in whole}
    for each in short_:
        assert each.change.margin <= margins[each.change.subject]
        assert each.is_least or each.change.margin == margins[each.change.subject]


def test_noise_that_covers_what_is_told_leaves_the_rest_open():
    oracle = Shortlist(tokens=(1, 2), logprobs=(-1.0, -1.1), vocabulary=9)
    control = Shortlist(tokens=(1, 2), logprobs=(-1.3, -0.8), vocabulary=9)
    told, untold = (
        Shortlist(tokens=(token, 1), logprobs=(-1.0, -1.1), vocabulary=9) for token in (2, 7)
    )

    assert [each.choice for each in told_changes(told, oracle, control)] == [Choice.TIE]
    assert [each.choice for each in told_changes(untold, oracle, control)] == [None]
    assert [each.choice for each in told_changes(untold, oracle)] == [Choice.FLIP]


def test_nan_explains_nothing():
    oracle = short(np.arange(SIZE, dtype=float), 5)
    broken = Shortlist.of([(1, math.nan), (2, -1.0)], SIZE)

    assert broken.tokens[0] == 1
    assert [each.choice for each in told_changes(broken, oracle)] == [Choice.FLIP]


@given(st.lists(st.lists(st.tuples(logits, lengths), max_size=2), max_size=3))
def test_shortlists_survive_json(drawn):
    lists = tuple(tuple(short(values, count) for values, count in step) for step in drawn)

    assert shortlists_from_json(shortlists_to_json(lists)) == lists
