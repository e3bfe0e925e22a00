"""A flip within the noise is a tie; any other is a flip."""

import numpy as np
import pytest

from pytest_falsify.compare.tokens import Change, Choice, top_changes
from pytest_falsify.errors import AlignmentError

ORACLE = np.array([[1.0, 3.0, 2.0, 0.0]] * 3)


def changed(subject, control=None, **options):
    return top_changes(np.asarray(subject), ORACLE, control, **options)


def test_the_same_choice_is_no_change():
    assert changed(ORACLE + 0.3) == ()


def test_another_choice_without_a_control_is_a_flip():
    subject = ORACLE.copy()
    subject[1, 2] = 3.5
    (found,) = changed(subject)
    assert found == Change(token=1, oracle=1, subject=2, margin=1.0, allowance=0.0)
    assert found.choice is Choice.FLIP


@pytest.mark.parametrize(("noise", "choice"), [(0.3, Choice.TIE), (0.1, Choice.FLIP)])
def test_the_noise_of_the_control_decides(noise, choice):
    subject = ORACLE.copy()
    subject[1, 2] = 3.5
    control = ORACLE + noise * np.array([1, -1, 1, -1])
    (found,) = changed(subject, control)
    assert found.allowance == pytest.approx(4 * 2**0.5 * noise)
    assert found.choice is choice


def test_the_noise_of_another_token_excuses_nothing():
    subject, control = ORACLE.copy(), ORACLE.copy()
    subject[1, 2] = 3.5
    control[0] += 10
    (found,) = changed(subject, control)
    assert found.choice is Choice.FLIP


def test_an_exact_tie_of_the_oracle_is_a_tie():
    oracle = np.array([[1.0, 2.0, 2.0]])
    (found,) = top_changes(np.array([[1.0, 2.0, 2.1]]), oracle)
    assert found.choice is Choice.TIE


def test_the_order_within_the_top_does_not_count_but_members_do():
    assert changed(ORACLE[:, [0, 2, 1, 3]], k=2) == ()
    found = changed(ORACLE[:, [2, 1, 0, 3]], k=2)
    assert [(each.token, each.oracle, each.subject, each.margin) for each in found] == [
        (token, 2, 0, 1.0) for token in range(3)
    ]


@pytest.mark.parametrize("stray", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["subject", "oracle"])
def test_a_stray_logit_is_a_flip_even_where_the_choice_is_the_same(stray, side):
    sides = {"subject": ORACLE.copy(), "oracle": ORACLE.copy()}
    sides[side][2, 1] = stray
    (found,) = top_changes(**sides, control=ORACLE + 100)
    assert (found.token, found.choice) == (2, Choice.FLIP)


def test_what_is_ruled_out_on_all_sides_makes_no_noise():
    oracle = np.array([[0.0, 1.0, -np.inf]])
    (found,) = top_changes(np.array([[1.0, 0.0, -np.inf]]), oracle, oracle)
    assert (found.allowance, found.choice) == (0.0, Choice.FLIP)


@pytest.mark.parametrize(("shape", "k"), [((3, 5), 1), ((3, 4), 5), ((3, 4), 0)])
def test_other_shapes_are_refused(shape, k):
    with pytest.raises(AlignmentError):
        changed(np.zeros(shape), k=k)
