"""Gates are those of the real routers: what a model dispatches is what its declared gate gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from routing_support import GATES, make_layer

from pytest_falsify.routing.captured import explained_by
from pytest_falsify.routing.gate import Gate, choose
from pytest_falsify.routing.recompute import disagreement, misdirection


@given(st.sampled_from(sorted(GATES)), st.integers(0, 50))
def test_an_honest_dispatch_agrees_with_itself(name, seed):
    layer = make_layer(gate=GATES[name], seed=seed)
    assert disagreement(layer).rows.tolist() == []
    assert misdirection(layer).tolist() == [0.0] * len(layer.logits)


@given(st.sampled_from(sorted(GATES)), st.integers(0, 50))
def test_the_order_of_the_chosen_does_not_count(name, seed):
    layer = make_layer(gate=GATES[name], seed=seed)
    turned = replace(layer, indices=layer.indices[:, ::-1], weights=layer.weights[:, ::-1])
    assert disagreement(turned).rows.tolist() == []


@pytest.mark.parametrize("name", sorted(GATES))
def test_one_wrong_expert_is_found_with_its_margin(name):
    layer = make_layer(gate=GATES[name])
    ids = np.array(layer.indices)
    worst = np.argsort(layer.logits[3])[0]
    ids[3, 0] = worst
    wrong = replace(layer, indices=ids)
    assert disagreement(wrong).rows.tolist() == [3]
    margins = misdirection(wrong)
    assert margins[3] > 0.01
    assert (margins > 0).sum() == 1


def test_an_expert_chosen_twice_has_no_margin():
    layer = make_layer()
    ids = np.array(layer.indices)
    ids[2, 1] = ids[2, 0]
    assert misdirection(replace(layer, indices=ids))[2] == np.inf


def test_a_nan_among_the_logits_is_no_honest_choice():
    layer = make_layer()
    logits = np.array(layer.logits)
    logits[4, 0] = np.nan
    assert 4 in disagreement(replace(layer, logits=logits)).rows


def test_equal_scores_may_be_chosen_in_any_order():
    layer = make_layer(tokens=1, experts=4, active=2)
    tied = replace(layer, logits=np.array([[1, 1, 1, 0]], np.float32))
    for ids in ([0, 1], [2, 0], [1, 2]):
        assert misdirection(replace(tied, indices=np.array([ids])))[0] == 0


def test_a_bias_takes_part_in_the_choice_and_not_in_the_weight():
    gate = Gate(score=GATES["sigmoid"].score, is_biased=True)
    logits = np.array([[2.0, 1.0, 0.0, -1.0]], np.float32)
    found = choose(logits, 1, gate, np.array([0, 0, 0, 5.0]))
    assert found.indices.tolist() == [[3]]
    assert found.weights[0, 0] == pytest.approx(1 / (1 + np.e))


def test_an_expert_of_a_shut_group_is_not_chosen():
    gate = Gate(groups=2, chosen_groups=1)
    logits = np.array([[5.0, -9.0, 4.0, 4.5]], np.float32)
    assert choose(logits, 2, gate).indices.tolist() == [[0, 1]]
    logits = np.array([[5.0, -9.0, 4.9, 4.9]], np.float32)
    assert choose(logits, 2, gate).indices.tolist() == [[2, 3]]


@pytest.mark.parametrize("name", ["softmax", "renormalised", "sigmoid"])
def test_the_rule_is_found_that_explains_a_dispatch(name):
    assert explained_by(make_layer(gate=GATES[name])) == GATES[name]


def test_no_rule_explains_a_biased_dispatch():
    assert explained_by(make_layer(gate=GATES["grouped"])) is None
