"""Two runs: near-ties are ties, faults are not, and what follows a tie is not held against it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_support import GATES, disturbed, make_facts, make_routing, sent

from pytest_falsify.errors import AlignmentError
from pytest_falsify.routing.difference import Kind, compare_routings
from pytest_falsify.routing.faults import FAULTS, planted
from pytest_falsify.routing.full_run import write_full_run
from pytest_falsify.routing.objections import objections
from pytest_falsify.routing.run import read_run

NOISE = 1e-3


def single(logits, active=1):
    """Return a run of one layer with these logits."""
    routing = make_routing(len(logits), layers=1, experts=len(logits[0]), active=active)
    layer = sent(replace(routing.layers[0], logits=np.array(logits, np.float32)))
    return replace(routing, layers={0: layer})


@given(st.sampled_from(sorted(GATES)))
def test_a_run_does_not_differ_from_itself(name):
    routing = make_routing(gate=GATES[name])
    found = compare_routings(routing, routing, disturbed(routing, NOISE))
    assert found.changes == ()
    assert objections(found) == []
    assert all(each.kl.max() == 0 and each.jaccard.min() == 1 for each in found.layers.values())


@settings(max_examples=40)
@given(st.sampled_from(sorted(GATES)), st.integers(0, 10_000))
def test_noise_like_the_controls_is_never_objected_to(name, seed):
    oracle = make_routing(64, layers=2, gate=GATES[name], seed=seed)
    subject, control = disturbed(oracle, NOISE, seed + 1), disturbed(oracle, NOISE, seed + 2)
    assert objections(compare_routings(subject, oracle, control)) == []


@pytest.mark.parametrize("name", sorted(GATES))
@pytest.mark.parametrize("size", [0.0, NOISE])
def test_every_fault_that_exists_is_objected_to(name, size):
    oracle = make_routing(64, gate=GATES[name])
    subject = disturbed(oracle, size) if size else oracle
    control = disturbed(oracle, size or 1e-6, seed=3)
    known = dict(planted(subject))
    assert len(known) >= 2
    assert [
        fault
        for fault, faulty in known.items()
        if not objections(compare_routings(faulty, oracle, control))
    ] == []


def test_faults_that_cannot_exist_are_not_planted():
    plain = {name for name, _ in planted(make_routing())}
    assert {each.name for each in FAULTS} - plain == {
        "bias left out",
        "groups ignored",
        "renormalisation left out",
    }
    grouped = {name for name, _ in planted(make_routing(gate=GATES["grouped"]))}
    assert {"bias left out", "groups ignored", "renormalisation left out"} <= grouped


@pytest.mark.parametrize(("margin", "kind"), [(0.001, Kind.TIE), (0.1, Kind.FLIP)])
def test_a_margin_within_noise_is_a_tie_and_beyond_it_a_flip(margin, kind):
    oracle = single([[1.0, 1.0 - margin, -3.0, -4.0]] * 16)
    swapped = single([[1.0 - margin, 1.0, -3.0, -4.0]] * 16)
    found = compare_routings(swapped, oracle, disturbed(oracle, NOISE))
    assert [kind] * 16 == [each.kind for each in found.changes]


def test_scores_that_are_off_everywhere_are_objected_to_though_only_ties_change():
    oracle = single([[1.0, 0.999, -3.0, -4.0]] * 16)
    far = single([[0.9, 1.0, -3.0, -4.0]] * 16)
    found = compare_routings(far, oracle, disturbed(oracle, NOISE))
    assert {Kind.TIE} == {each.kind for each in found.changes}
    assert "the scores of 1 router are beyond their floor" in objections(found)[0]


def test_round_logits_are_told_from_noise_and_only_where_the_control_has_none():
    oracle = make_routing(16)
    noise = disturbed(oracle, 0.1)
    rounded = dict(planted(disturbed(oracle, 0.1, seed=4)))["router in bfloat16"]
    assert objections(compare_routings(rounded, oracle, noise)) == [
        "layer 0: the router computes in bfloat16, the control's does not"
    ]
    assert (
        objections(compare_routings(rounded, oracle, dict(planted(noise))["router in bfloat16"]))
        == []
    )


def test_a_change_names_token_layer_experts_and_margin():
    oracle = single([[5.0, 1.0, 0.0, 0.0], [5.0, 4.5, 0.0, 0.0]])
    subject = single([[5.0, 1.0, 0.0, 0.0], [4.0, 4.5, 0.0, 0.0]])
    (change,) = compare_routings(subject, oracle).changes
    assert (change.token, change.layer, change.left_out, change.taken) == (1, 0, (0,), (1,))
    assert change.margin == pytest.approx(0.5)
    assert change.allowance == 0
    assert change.kind is Kind.FLIP


def test_without_a_control_only_an_exact_tie_is_one():
    oracle = single([[1.0, 1.0, 0.0, 0.0]])
    layer = oracle.layers[0]
    other = replace(oracle, layers={0: replace(layer, indices=1 - layer.indices)})
    assert [each.kind for each in compare_routings(other, oracle).changes] == [Kind.TIE]


def test_what_follows_a_tie_is_inherited_and_only_from_there_on():
    oracle = make_routing(20, layers=2, experts=8, active=2)
    first, second = oracle.layers[0], oracle.layers[1]
    logits = np.array(first.logits)
    best = np.argsort(-logits[10])[:3]
    logits[10, best[2]] = logits[10, best[1]] - 1e-5  # a near-tie at token 10
    oracle = replace(oracle, layers={0: sent(replace(first, logits=logits)), 1: second})
    tied = np.array(logits)
    tied[10, best[2]] = logits[10, best[1]] + 1e-5
    moved = np.array(second.logits)
    moved[[3, 12]] = moved[[3, 12]][:, ::-1]  # other experts before and behind the tie
    subject = replace(
        oracle,
        layers={0: sent(replace(first, logits=tied)), 1: sent(replace(second, logits=moved))},
    )
    kinds = {
        (each.token, each.layer): each.kind
        for each in compare_routings(subject, oracle, disturbed(oracle, NOISE)).changes
    }
    assert kinds == {(10, 0): Kind.TIE, (3, 1): Kind.FLIP, (12, 1): Kind.INHERITED}


def test_a_layer_in_which_every_token_inherits_is_not_judged():
    oracle = make_routing(12, layers=2, experts=8, active=2)
    first = oracle.layers[0]
    logits = np.array(first.logits)
    best = np.argsort(-logits[0])[:3]
    logits[0, best[2]] = logits[0, best[1]] - 1e-5
    oracle = replace(oracle, layers={**oracle.layers, 0: sent(replace(first, logits=logits))})
    tied = np.array(logits)
    tied[0, best[2]] += 2e-5
    subject = replace(oracle, layers={**oracle.layers, 0: sent(replace(first, logits=tied))})
    found = compare_routings(subject, oracle, disturbed(oracle, NOISE))
    assert found.unjudged == (1,)
    assert compare_routings(subject, oracle).unjudged == ()


def test_a_broken_control_allows_nothing():
    oracle = make_routing(16, layers=1)
    control = disturbed(oracle, NOISE)
    logits = np.array(control.layers[0].logits)
    logits[:] = np.nan
    broken = replace(control, layers={0: replace(control.layers[0], logits=logits)})
    assert objections(compare_routings(disturbed(oracle, 0.1), oracle, broken))


def test_probabilities_that_a_file_rounded_away_do_not_hide_a_flip(tmp_path):
    def steep(routing):
        layers = {i: sent(replace(x, logits=x.logits * 40)) for i, x in routing.layers.items()}
        return replace(routing, layers=layers)

    oracle, other = steep(make_routing(16)), steep(make_routing(16, seed=50))
    runs = [
        read_run(write_full_run(replace(each, facts=make_facts(f"run-{place}")), tmp_path)).routing
        for place, each in enumerate((oracle, other, steep(disturbed(make_routing(16), 1e-4))))
    ]
    assert any(np.isinf(each.layers[0].logits).any() for each in runs)
    found = compare_routings(runs[1], runs[0], runs[2])
    assert len(found.of(Kind.FLIP)) > 8
    assert objections(found)


@pytest.mark.parametrize(("lead", "kind"), [(1e-4, Kind.TIE), (1.0, Kind.FLIP)])
def test_a_shut_group_that_is_entered_is_judged_by_the_groups(lead, kind):
    gate = replace(GATES["softmax"], groups=2, chosen_groups=1)
    plain = single([[2.0 + lead, 2.0, 2.0, 2.0]] * 16, active=2)
    other = single([[2.0, 2.0, 2.0 + lead, 2.0]] * 16, active=2)
    oracle, subject = (
        replace(each, layers={0: sent(replace(each.layers[0], gate=gate))})
        for each in (plain, other)
    )
    found = compare_routings(subject, oracle, disturbed(oracle, NOISE))
    assert [(each.left_out, each.taken) for each in found.changes] == [((0, 1), (2, 3))] * 16
    assert {kind} == {each.kind for each in found.changes}


def test_a_token_that_only_one_side_was_fed_ends_the_comparison():
    oracle = make_routing(12)
    ids = np.array(oracle.tokens.ids)
    ids[9] = 77
    subject = replace(oracle, tokens=replace(oracle.tokens, ids=ids))
    found = compare_routings(subject, oracle)
    assert (found.tokens, found.diverged_at) == (9, 9)


def test_runs_of_other_tokens_or_layers_are_not_compared():
    oracle = make_routing(4)
    other = replace(oracle, tokens=replace(oracle.tokens, ids=oracle.tokens.ids + 1))
    with pytest.raises(AlignmentError, match="not fed the same tokens"):
        compare_routings(other, oracle)
    with pytest.raises(AlignmentError, match=r"experts, active"):
        compare_routings(make_routing(4, active=3), oracle)


def test_dropped_places_are_objected_to_with_their_number():
    oracle = make_routing(6, layers=1)
    layer = oracle.layers[0]
    ids = np.array(layer.indices)
    ids[2, 3] = layer.experts
    subject = replace(oracle, layers={0: replace(layer, indices=ids)})
    found = compare_routings(subject, oracle, disturbed(oracle, NOISE))
    assert found.layers[0].dropped == (1, 0)
    assert any("dropped 1 place for want of capacity" in each for each in objections(found))


def test_a_nan_is_never_explained():
    oracle = make_routing(6, layers=1)
    layer = oracle.layers[0]
    logits = np.array(layer.logits)
    logits[2] = np.nan
    subject = replace(oracle, layers={0: replace(layer, logits=logits)})
    assert objections(compare_routings(subject, oracle, disturbed(oracle, NOISE)))


def test_bounds_are_held_and_named():
    oracle = make_routing(32)
    subject, control = disturbed(oracle, 0.05), disturbed(oracle, 0.05, seed=2)
    found = compare_routings(subject, oracle, control)
    assert objections(found, {"kl": {"mean": 0.1}, "jaccard": {"min": 0.1}}) == []
    (told,) = objections(found, {"kl": {"max": 1e-9}})
    assert "kl max" in told
    assert "above 1e-09" in told


@given(st.integers(0, 100))
def test_measures_are_symmetric_where_they_should_be(seed):
    a, b = make_routing(seed=seed), disturbed(make_routing(seed=seed), 0.5)
    there, back = compare_routings(a, b), compare_routings(b, a)
    for index in there.layers:
        one, other = there.layers[index], back.layers[index]
        assert one.jaccard == pytest.approx(other.jaccard)
        assert one.js == pytest.approx(other.js)
        assert one.load_drift == pytest.approx(other.load_drift)
        assert (one.kl >= -1e-12).all()
