"""Divergences are those of exact arithmetic, and what is no distribution is infinitely far."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_falsify.compare.distribution import (
    js_divergence,
    kl_divergence,
    log_softmax,
    top_k_divergence,
)

logits = hnp.arrays(np.float64, (3, 7), elements=st.floats(-30, 30))


def softmax(row):
    powers = [math.exp(each - max(row)) for each in row]
    return [each / math.fsum(powers) for each in powers]


@given(logits, logits)
def test_kl_is_the_sum_it_stands_for(oracle, subject):
    expected = [
        math.fsum(p * math.log(p / q) for p, q in zip(softmax(a), softmax(b), strict=True))
        for a, b in zip(oracle.tolist(), subject.tolist(), strict=True)
    ]
    assert kl_divergence(oracle, subject).tolist() == pytest.approx(expected, abs=1e-10)


@given(logits, logits, st.floats(-100, 100))
def test_divergences_do_not_see_a_constant(oracle, subject, shift):
    assert kl_divergence(oracle, subject) == pytest.approx(
        kl_divergence(oracle + shift, subject), abs=1e-10
    )


@given(logits, logits)
def test_js_is_symmetric_and_bounded(oracle, subject):
    there, back = js_divergence(oracle, subject), js_divergence(subject, oracle)
    assert there == pytest.approx(back, abs=1e-12)
    assert (there <= math.log(2) + 1e-12).all()


@given(logits, logits, st.integers(1, 7))
def test_buckets_never_show_more_than_the_full_vocabulary(oracle, subject, k):
    full = kl_divergence(oracle, subject)
    assert (top_k_divergence(oracle, subject, k) <= full + 1e-10).all()
    assert top_k_divergence(oracle, subject, 7) == pytest.approx(full)


def test_the_tail_bucket_sees_mass_that_leaves_the_top():
    oracle = np.log(np.array([[0.45, 0.45, 0.05, 0.05]]))
    subject = np.log(np.array([[0.25, 0.25, 0.25, 0.25]]))
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert top_k_divergence(oracle, subject, 2)[0] == pytest.approx(expected)


def test_what_is_ruled_out_on_both_sides_costs_nothing():
    oracle = np.array([[0.0, 1.0, -np.inf]])
    assert kl_divergence(oracle, oracle)[0] == 0
    assert js_divergence(oracle, oracle)[0] == 0


def test_what_the_subject_rules_out_is_infinitely_far():
    oracle, subject = np.array([[0.0, 0.0]]), np.array([[0.0, -np.inf]])
    assert kl_divergence(oracle, subject)[0] == np.inf
    assert js_divergence(oracle, subject)[0] < math.log(2)


@pytest.mark.parametrize("row", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_what_is_no_distribution_is_infinitely_far_even_from_itself(row):
    broken, plain = np.array([row]), np.zeros((1, 2))
    for divergence in (kl_divergence, js_divergence, lambda a, b: top_k_divergence(a, b, 1)):
        assert divergence(broken, plain)[0] == np.inf
        assert divergence(plain, broken)[0] == np.inf
        assert divergence(broken, broken)[0] == np.inf


def test_log_softmax_keeps_large_logits():
    assert log_softmax(np.array([[1e4, 0.0]])).tolist() == [[0.0, -1e4]]
