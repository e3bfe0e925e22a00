"""Captures are compared site by site, in causal order, and nothing is skipped in silence."""

import numpy as np
import pytest

from pytest_falsify.captures.capture import Capture, CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.compare.comparison import compare_captures, compare_tensors
from pytest_falsify.errors import AlignmentError
from pytest_falsify.stages.vocabulary import Site

EMBEDDING, SCORES, ATTENTION, LOGITS = (
    Site(0, None, "embedding"),
    Site(0, 0, "attn_scores"),
    Site(0, 1, "attention"),
    Site(0, None, "lm_head"),
)
ORACLE = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)


def tensor(array, dims="t d", positions=(4, 5, 6), mask="none"):
    return CapturedTensor(array=array, dims=dims, positions=positions, mask=mask)


def capture(tensors, *, missing=(), tokens=(1, 2, 3), engine="transformers"):
    return Capture(
        identity=Identity(engine=engine, versions={}, weights="w", settings={}, device="cpu"),
        inputs=TokenInputs(name="prompt", tokens=tokens),
        plan=Plan(),
        tensors=tensors,
        logits=(),
        missing=missing,
    )


def of(noise, *sites, **options):
    tensors = {site: tensor(ORACLE + np.float32(noise)) for site in sites}
    return capture(tensors, **options)


def test_sites_stand_in_causal_order_however_they_came():
    found = compare_captures(
        of(0, LOGITS, ATTENTION, EMBEDDING), of(0, ATTENTION, EMBEDDING, LOGITS)
    )
    assert [each.site for each in found.sites] == [EMBEDDING, ATTENTION, LOGITS]
    assert found.missing == ()


def test_a_site_of_one_side_is_missing_and_so_is_a_planned_one():
    found = compare_captures(
        of(0, EMBEDDING, LOGITS), of(0, EMBEDDING, ATTENTION, missing=(SCORES,))
    )
    assert [each.site for each in found.sites] == [EMBEDDING]
    assert found.missing == (SCORES, ATTENTION, LOGITS)


def test_the_identities_of_both_sides_are_kept_apart():
    subject, oracle = of(0, EMBEDDING, engine="command"), of(0, EMBEDDING)
    found = compare_captures(subject, oracle)
    assert (found.subject, found.oracle) == (subject.identity.digest, oracle.identity.digest)
    assert found.subject != found.oracle


def test_different_tokens_are_refused():
    with pytest.raises(AlignmentError, match="fed different tokens"):
        compare_captures(of(0, EMBEDDING), of(0, EMBEDDING, tokens=(1, 2, 4)))


def test_nothing_in_common_is_empty_and_its_worst_is_an_error_that_says_so():
    found = compare_captures(of(0, EMBEDDING), of(0, LOGITS))
    assert found.is_empty
    with pytest.raises(AlignmentError, match="no site was compared; 2 were shown by one side"):
        _ = found.worst
    assert found.first_beyond(0.0) is None
    hollow = {EMBEDDING: tensor(np.zeros((0, 6)), positions=())}
    assert compare_captures(capture(hollow), capture(hollow)).is_empty


def test_the_worst_site_and_the_first_beyond_a_limit_differ():
    subject = capture(
        {
            EMBEDDING: tensor(ORACLE),
            ATTENTION: tensor(ORACLE * np.float32(1.01)),
            LOGITS: tensor(ORACLE * np.float32(1.5)),
        }
    )
    found = compare_captures(subject, of(0, EMBEDDING, ATTENTION, LOGITS))
    assert not found.is_empty
    assert found.worst.site == LOGITS
    assert found.first_beyond(1e-3).site == ATTENTION
    assert found.first_beyond(1.0) is None
    assert found.at(ATTENTION).total.scale == pytest.approx(1.01)
    assert found.at(SCORES) is None


def test_a_bad_row_is_beyond_a_row_limit_although_its_site_is_within():
    subject = ORACLE.copy()
    subject[1] *= np.float32(1.1)
    found = compare_captures(capture({EMBEDDING: tensor(subject)}), of(0, EMBEDDING))
    assert found.first_beyond(0.099) is None
    assert found.first_beyond(0.099, row_limit=0.099).site == EMBEDDING


def test_a_nan_is_beyond_every_limit():
    subject = ORACLE.copy()
    subject[0, 0] = np.nan
    found = compare_captures(capture({EMBEDDING: tensor(subject)}), of(0, EMBEDDING))
    assert found.first_beyond(1e300).site == EMBEDDING


def test_the_worst_row_is_a_head_of_a_token_at_its_position():
    oracle = np.random.default_rng(1).standard_normal((3, 2, 4))
    subject = oracle.copy()
    subject[2, 1, 3] += 5
    found = compare_tensors(
        tensor(subject, dims="t h d"), tensor(oracle, dims="t h d"), site=SCORES
    )
    assert found.worst_position == {"t": 6, "h": 1}
    assert found.largest_position == {"t": 6, "h": 1, "d": 3}
    assert found.worst_row.max_abs == pytest.approx(5)
    assert len(found.rows) == 6
    assert found.row_position(1) == {"t": 4, "h": 1}


def test_a_vector_is_one_row():
    found = compare_tensors(
        tensor(np.array([1.0, 2.0, 4.0]), dims="t"),
        tensor(np.array([1.0, 2.0, 3.0]), dims="t"),
        site=LOGITS,
    )
    assert (found.worst_position, found.largest_position) == ({}, {"t": 6})
    assert found.worst_row == found.total


def test_axes_in_another_order_are_brought_into_the_oracles():
    oracle = np.random.default_rng(2).standard_normal((3, 2, 4))
    found = compare_tensors(
        tensor(oracle.transpose(1, 0, 2), dims="h t d"), tensor(oracle, dims="t h d"), site=SCORES
    )
    assert found.total.is_bit_equal


@pytest.mark.parametrize(
    "subject",
    [
        tensor(ORACLE, mask="-inf"),
        tensor(ORACLE, positions=(4, 5, 7)),
        tensor(ORACLE[:, :5]),
        tensor(ORACLE, dims="t h"),
        tensor(ORACLE, dims="t"),
        tensor(ORACLE, dims="t t"),
        tensor(ORACLE, positions=(4, 5)),
        tensor(ORACLE[:2], positions=(4, 5)),
        tensor(ORACLE.astype(complex)),
    ],
)
def test_what_cannot_be_aligned_is_refused_with_its_site(subject):
    with pytest.raises(AlignmentError, match="0/1/attention"):
        compare_tensors(subject, tensor(ORACLE), site=ATTENTION)


def test_a_refusal_shows_both_sides():
    with pytest.raises(AlignmentError) as caught:
        compare_tensors(tensor(ORACLE[:, :5]), tensor(ORACLE), site=ATTENTION)
    assert "subject: dims `t d`, shape 3x5 float32, tokens 4..6" in str(caught.value)
    assert "oracle:  dims `t d`, shape 3x6 float32, tokens 4..6" in str(caught.value)


def test_the_same_values_in_another_dtype_are_not_identical():
    found = compare_tensors(tensor(ORACLE.astype(np.float64)), tensor(ORACLE), site=ATTENTION)
    assert found.total.is_bit_equal
    assert not found.is_identical
    assert compare_tensors(tensor(ORACLE), tensor(ORACLE), site=ATTENTION).is_identical
