"""Grafts, the served path, and the budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from localize_support import INPUTS, plant, site

from pytest_falsify.captures.record import record
from pytest_falsify.engines.grafting import written
from pytest_falsify.errors import CaptureError
from pytest_falsify.localize.budget import stream_plan, zoom
from pytest_falsify.localize.grafts import graft
from pytest_falsify.localize.served import unlike_served

FAULT = plant("0/1/q_post_rope", "heads exchanged")
RESIDUAL = plant("0/0/post_attn_residual", "tokens shifted by one")


@pytest.mark.parametrize("fault", [FAULT, RESIDUAL, plant("0/0/qkv_bias", "scaled by 1.03")])
def test_the_oracles_tensor_at_the_guilty_site_takes_the_difference_away(lab, fault):
    subject, oracle = lab.capture(dtype="float32", plant=fault), lab.capture(dtype="float32")
    session = lab.session(dtype="float32", plant=fault)
    found = graft(session, subject, oracle, site(fault["site"]))
    assert found.before > 1e-3
    assert found.share > 0.999


def test_a_graft_elsewhere_does_not(lab):
    subject, oracle = lab.capture(dtype="float32", plant=FAULT), lab.capture(dtype="float32")
    session = lab.session(dtype="float32", plant=FAULT)
    assert abs(graft(session, subject, oracle, site("0/1/k_post_rope")).share) < 1e-3


def test_the_subjects_tensor_in_the_oracle_makes_the_difference(lab):
    subject, oracle = lab.capture(dtype="float32", plant=FAULT), lab.capture(dtype="float32")
    found = graft(lab.session(dtype="float32"), oracle, subject, site("0/1/q_post_rope"))
    assert found.share > 0.999


def test_a_graft_leaves_the_model_as_it_was(lab):
    session = lab.session(dtype="float32")
    usual = session.model.config._attn_implementation
    subject, oracle = lab.capture(dtype="float32", plant=FAULT), lab.capture(dtype="float32")
    graft(session, oracle, subject, site("0/1/q_post_rope"))
    assert usual == session.model.config._attn_implementation
    again = record(session, INPUTS, oracle.plan)
    assert oracle.logits[0].tobytes() == again.logits[0].tobytes()


@pytest.mark.parametrize("where", ["0/0/attn_softmax", "0/0/v_cache"])
def test_what_is_no_tensor_of_the_model_cannot_be_written(lab, where):
    session = lab.session(dtype="float32")
    writing = written(session.model, session.visible.family, {site(where): lambda value, _: value})
    with pytest.raises(CaptureError, match="cannot be written to"), writing:
        pass


def test_heads_are_exchanged_where_there_are_heads_only(lab):
    with pytest.raises(CaptureError, match="no heads to exchange"):
        lab.capture(dtype="float32", plant=plant("0/0/attn_out", "heads exchanged"))


def test_only_the_transformers_engine_can_be_grafted(lab):
    subject = lab.capture(dtype="float32")
    with pytest.raises(CaptureError, match="only the transformers engine"):
        graft(object(), subject, subject, site("0/1/q_post_rope"))


def test_a_site_that_the_donor_lacks_cannot_be_grafted(lab):
    subject = lab.capture(dtype="float32")
    donor = replace(subject, tensors={})
    with pytest.raises(CaptureError, match="no 0/1/q_post_rope"):
        graft(lab.session(dtype="float32"), subject, donor, site("0/1/q_post_rope"))


def served_as(capture, logits=None, **more):
    return replace(capture, logits=capture.logits if logits is None else (logits,), **more)


def test_equal_logits_are_the_served_path(lab):
    captured = lab.capture(dtype="float32")
    assert unlike_served(captured, served_as(captured), oracle=captured, control=None) is None


def test_one_other_bit_is_another_path_when_no_control_says_what_noise_is(lab):
    captured = lab.capture(dtype="float32")
    logits = captured.logits[0].copy()
    logits[0, 0] = np.nextafter(logits[0, 0], np.inf)
    told = unlike_served(captured, served_as(captured, logits), oracle=captured, control=None)
    assert told.startswith("the captured path is not the served one")


def test_noise_as_large_as_the_controls_is_the_same_path(lab):
    captured = lab.capture(dtype="bfloat16", attention="eager")
    served = lab.capture(dtype="bfloat16", attention="sdpa")
    oracle = lab.capture(dtype="float32", attention="eager")
    same_choice = (captured.logits[0].argmax(-1) == served.logits[0].argmax(-1)).all()
    told = unlike_served(captured, served, oracle=oracle, control=captured)
    assert (told is None) == bool(same_choice)


def test_a_faulty_path_is_not_the_served_one_whatever_the_noise(lab):
    captured = lab.capture(dtype="bfloat16", attention="eager", plant=FAULT)
    told = unlike_served(
        captured,
        lab.capture(dtype="bfloat16", attention="eager"),
        oracle=lab.capture(dtype="float32", attention="eager"),
        control=lab.capture(dtype="bfloat16", attention="eager"),
    )
    assert "the captured path is not the served one" in told


def test_other_tokens_are_another_path(lab):
    captured = lab.capture(dtype="float32")
    served = served_as(captured, continuation=(1, 2))
    told = unlike_served(captured, served, oracle=captured, control=None)
    assert "other tokens were decoded" in told


def test_a_served_path_without_an_answer_is_not_believed(lab):
    captured = lab.capture(dtype="float32")
    told = unlike_served(captured, replace(captured, logits=()), oracle=captured, control=None)
    assert "neither logits nor tokens" in told


def test_the_budget_finds_what_a_full_capture_finds_with_less(lab):
    fault = plant("0/0/ffn_norm", "tokens shifted by one")
    session = lab.session(dtype="float32", attention="eager", plant=fault)
    stream = record(session, INPUTS, stream_plan(session))
    zoomed = zoom(lab.evaluator(), session, stream)
    assert [site("0/0/ffn_norm")] == [each.site for each in zoomed.chain.guilty]
    assert zoomed.forwards == 1.5
    assert zoomed.nbytes < 0.7 * lab.capture(dtype="float32", attention="eager").nbytes


def test_an_honest_run_costs_one_forward(lab):
    session = lab.session(dtype="float32", attention="sdpa")
    zoomed = zoom(lab.evaluator(), session, record(session, INPUTS, stream_plan(session)))
    assert (zoomed.forwards, zoomed.chain.guilty) == (1.0, ())
