"""Derivations: exact, deterministic, made again by whoever reads them, and honest about chance."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from routing_support import make_routing

from pytest_falsify.errors import CaptureError
from pytest_falsify.routing.add_derived import add_derived
from pytest_falsify.routing.coherence import coherence, information
from pytest_falsify.routing.derive import derive, verified
from pytest_falsify.routing.full_run import write_full_run
from pytest_falsify.routing.routing_v1 import write_routing
from pytest_falsify.routing.run import read_run

RAW = {"raw_trace.ndjson", "layout.json", "routing.safetensors"}


def bound(tokens=400):
    """Return a run in which a token's experts in one layer decide those in the next."""
    routing = make_routing(tokens, layers=3, experts=8, active=2)
    first = routing.layers[0]
    return replace(routing, layers=dict.fromkeys(range(3), first))


def motifs(derived, layer):
    return [
        one["motif_id"]
        for each in derived["derived_events"]
        for one in each["derived_payload"]["layer_motifs"]
        if one["layer_index"] == layer
    ]


@given(st.sampled_from(["experts", "exact"]), st.integers(0, 20))
def test_it_is_deterministic_and_survives_json(config, seed):
    routing = make_routing(seed=seed)
    found = json.loads(json.dumps(derive(routing, config)))
    assert found == derive(routing, config)
    assert verified(routing, found).endswith("made again, and the same")


def test_one_motif_is_one_set_of_experts_whatever_their_order():
    routing = make_routing(30, experts=4, active=2)
    found = motifs(derive(routing), 1)
    sets = [frozenset(each) for each in routing.layers[1].indices.tolist()]
    assert len(set(found)) == len(set(sets))
    assert all((found[a] == found[b]) == (sets[a] == sets[b]) for a in range(30) for b in range(30))


def test_one_exact_motif_is_one_vector_of_bits():
    routing = make_routing(4)
    layer = routing.layers[0]
    logits = np.array(layer.logits)
    logits[2] = logits[0]
    logits[3] = np.nextafter(logits[0], 9, dtype=np.float32)
    parts = {name: np.array([getattr(layer, name)[0]] * 4) for name in ("indices", "weights")}
    same = replace(routing, layers={0: replace(layer, logits=logits, **parts)})
    found = motifs(derive(same, "exact"), 0)
    assert found[0] == found[2]
    assert found[0] != found[3]
    assert len(set(motifs(derive(same), 0))) == 1


def test_co_activation_counts_every_pair_once():
    routing = make_routing(20, layers=1, experts=6, active=3)
    (found,) = derive(routing)["contingency"]["contingency_payload"]["co_activation"]
    counted = {(a, b): count for a, b, count in found["pairs"]}
    for a in range(6):
        for b in range(a + 1, 6):
            together = sum({a, b} <= set(row) for row in routing.layers[0].indices.tolist())
            assert together == counted.get((a, b), 0)


def test_scrambling_destroys_what_binds_the_layers():
    found = coherence(bound())
    assert found.is_coherent
    assert max(found.scrambled) < found.observed / 5


def test_random_routing_is_a_weak_fit():
    found = [
        coherence(make_routing(200, layers=6, experts=8, seed=100 * seed)) for seed in range(8)
    ]
    for each in found:
        assert each.observed == pytest.approx(np.mean(each.scrambled), rel=0.3)
    # one in twenty-one is above all of its twenty copies by chance
    assert sum(each.is_coherent for each in found) <= 1


def test_one_layer_has_no_coherence_to_speak_of():
    payload = derive(make_routing(layers=1))["contingency"]["contingency_payload"]
    assert payload["coherence"]["observed"] is None
    assert payload["coherence"]["fit"] == "weak"


def test_information_of_a_copy_is_its_entropy_and_of_a_constant_nothing():
    labels = np.array([0, 1, 2, 3] * 5)
    assert information(labels, labels) == pytest.approx(np.log(4))
    assert information(labels, np.zeros(20, dtype=int)) == pytest.approx(0)


@pytest.mark.parametrize("write", [write_routing, write_full_run])
def test_deriving_changes_no_byte_of_what_was_recorded(write, tmp_path):
    folder = write(make_routing(), tmp_path)
    before = {each.name: each.read_bytes() for each in folder.iterdir() if each.name in RAW}
    run = add_derived(folder, "exact")
    assert before == {each.name: each.read_bytes() for each in folder.iterdir() if each.name in RAW}
    assert sorted(run.derived) == ["contingency", "derived_events", "motif_ledger"]
    assert verified(run.routing, run.derived).endswith("the same")
    assert add_derived(folder, "experts").manifest["derivation_config_id"] == "experts"


def test_a_forged_derivation_is_refused(tmp_path):
    run = add_derived(write_full_run(make_routing(), tmp_path), "experts")
    path = run.folder / "motif_ledger.json"
    ledger = json.loads(path.read_text())
    ledger["ledger_payload"]["global_motifs"] += 1
    path.write_text(json.dumps(ledger))
    again = read_run(run.folder)
    with pytest.raises(CaptureError, match="motif_ledger is not what"):
        verified(again.routing, again.derived)


def test_what_somebody_else_derived_is_said_to_be_theirs():
    derived = derive(make_routing())
    foreign = {**derived["contingency"], "derivation_version": "motifs/v0.1.0-alpha"}
    assert "cannot be made again here" in verified(make_routing(), {"contingency": foreign})
    assert verified(make_routing(), {}) == "nothing is derived"


def test_an_unknown_configuration_is_refused():
    with pytest.raises(CaptureError, match="no derivation `fuzzy`"):
        derive(make_routing(), "fuzzy")
