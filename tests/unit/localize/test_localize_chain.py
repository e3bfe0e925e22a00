"""Own errors: blame stays with the operation that earned it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from localize_support import INPUTS, plant, shown, site

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.engines.grafting import written
from pytest_falsify.errors import CaptureError
from pytest_falsify.localize.chain import build, first_divergence
from pytest_falsify.localize.evaluation import Evaluator, isolated
from pytest_falsify.stages.rounded import rounded
from pytest_falsify.stages.vocabulary import STAGES, Site

PLANTED = (
    ("0/1/q_post_rope", "heads exchanged"),
    ("0/0/k_post_rope", "heads exchanged"),
    ("0/0/attention", "tokens shifted by one"),
    ("0/1/attn_norm", "scaled by 1.03"),
    ("0/0/post_attn_residual", "one channel negated"),
    ("0/1/qkv_bias", "scaled by 1.03"),
    ("0/-/embedding", "tokens shifted by one"),
    ("0/-/final_norm", "one channel negated"),
)


def guilty(chain):
    return [str(each.site) for each in chain.guilty]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_honest_engines_are_not_accused(lab, dtype, attention):
    subject = lab.capture(dtype=dtype, attention=attention)
    chain = build(lab.evaluator(dtype), subject)
    assert (guilty(chain), chain.undecided) == ([], ())
    assert len(subject.tensors) == len(chain.links)


@pytest.mark.parametrize(
    ("where", "fault", "dtype"),
    [(*each, ("float32", "bfloat16")[place % 2]) for place, each in enumerate(PLANTED)],
)
def test_a_planted_fault_is_blamed_on_its_operation_alone(lab, where, fault, dtype):
    subject = lab.capture(dtype=dtype, attention="eager", plant=plant(where, fault))
    assert [where] == guilty(build(lab.evaluator(dtype), subject))


def test_tensors_written_wider_than_they_were_computed_need_the_precision(lab):
    subject = lab.capture(dtype="bfloat16", attention="eager")
    wide = {
        where: replace(each, array=each.array.astype(np.float32))
        for where, each in subject.tensors.items()
    }
    subject = replace(subject, tensors=wide)
    assert guilty(build(lab.evaluator("bfloat16"), subject)) == []
    assert guilty(build(lab.evaluator("float32"), subject))


def test_two_independent_faults_are_both_named(lab):
    session = lab.session(dtype="float32", attention="eager")
    writes = {
        site("0/0/attn_out"): lambda value, _: value * 1.5,
        site("0/1/ffn_norm"): lambda value, _: value.roll(1, 1),
    }
    with written(session.model, session.visible.family, writes):
        fresh = run_of(session)
    assert guilty(build(lab.evaluator(), fresh)) == ["0/0/attn_out", "0/1/ffn_norm"]


def run_of(session):
    return record(session, INPUTS, Plan(stages=shown(session)))


def test_a_site_without_captured_inputs_is_judged_with_what_lies_between(lab):
    subject = lab.capture(
        stages=("embedding", "post_ffn_residual"),
        dtype="float32",
        plant=plant("0/1/ffn_norm", "tokens shifted by one"),
    )
    (link,) = build(lab.evaluator(), subject).guilty
    assert site("0/1/post_ffn_residual") == link.site
    assert site("0/1/ffn_norm") in link.group
    assert {1} == {each.layer for each in link.group}


def test_own_error_is_judged_with_the_weights_that_the_subject_declares(lab):
    import copy

    import torch

    session = lab.session(dtype="float32", attention="eager")
    declared = copy.deepcopy(session.model)
    with torch.no_grad():
        for parameter in declared.parameters():
            if parameter.dim() > 1:
                parameter.copy_(rounded(parameter, "int4 rows"))
    subject = run_of(replace(session, model=declared))
    with_declared = build(Evaluator.of(declared, "float32"), subject)
    with_original = build(lab.evaluator(), subject)
    assert guilty(with_declared) == []
    assert "0/0/ffn_gate" in guilty(with_original)


def test_rows_of_some_tokens_are_judged_and_nothing_is_computed_of_them(lab):
    subject = lab.capture(dtype="float32", attention="eager")
    tensors = dict(subject.tensors)
    last = tensors[site("0/1/attn_out")]
    tensors[site("0/1/attn_out")] = replace(
        last, array=last.array[-1:], positions=last.positions[-1:]
    )
    links = {
        each.site: each for each in build(lab.evaluator(), replace(subject, tensors=tensors)).links
    }
    assert links[site("0/1/attn_out")].own.error < 1e-6
    assert site("0/1/attn_out") in links[site("0/1/post_attn_residual")].group


def test_values_that_are_not_finite_are_the_fault_of_where_they_appear(lab):
    subject = lab.capture(dtype="float32", attention="eager")
    spoilt = subject.tensors[site("0/0/ffn_up")].array.copy()
    spoilt[3, 2] = np.nan
    tensors = {**subject.tensors}
    tensors[site("0/0/ffn_up")] = replace(tensors[site("0/0/ffn_up")], array=spoilt)
    chain = build(lab.evaluator(), replace(subject, tensors=tensors))
    assert guilty(chain)[0] == "0/0/ffn_up"


def test_other_orders_of_axes_are_understood(lab):
    subject = lab.capture(dtype="float32", attention="eager")
    tensors = {**subject.tensors}
    where = site("0/0/q_post_rope")
    turned = tensors[where].array.transpose(1, 0, 2)
    tensors[where] = replace(tensors[where], array=turned, dims="h t d")
    assert guilty(build(lab.evaluator(), replace(subject, tensors=tensors))) == []


def test_a_subject_that_does_not_say_its_tokens_cannot_be_judged(lab):
    subject = replace(lab.capture(dtype="float32"), inputs=TokenInputs(name="unstated", tokens=()))
    with pytest.raises(CaptureError, match="which tokens it was fed"):
        list(isolated(lab.evaluator(), subject))


@pytest.mark.parametrize("fault", [None, plant("0/1/attention", "scaled by 1.03")])
def test_the_decode_steps_of_a_stage_are_one_operation(lab, fault):
    options = {"dtype": "bfloat16", "attention": "eager"} | ({"plant": fault} if fault else {})
    session = lab.session(**options)
    plan = Plan(stages=shown(session), decode_steps=10)
    chain = build(lab.evaluator("bfloat16"), record(session, INPUTS, plan))
    wanted = {"attention": {0, 1}} if fault else {}
    found = {each.site.stage: set() for each in chain.guilty}
    for each in chain.guilty:
        found[each.site.stage].add(min(each.site.step, 1))
    assert (wanted, ()) == (found, chain.undecided)
    places = [(each.site.layer, each.site.stage, min(each.site.step, 1)) for each in chain.links]
    assert len(set(places)) == len(places)


def test_a_step_of_unknown_tokens_is_missing_and_not_judged(lab):
    session = lab.session(dtype="float32", attention="eager")
    found = record(session, INPUTS, Plan(stages=("attn_norm", "attn_out"), decode_steps=1))
    chain = build(lab.evaluator(), replace(found, continuation=()))
    assert {1} == {each.step for each in chain.missing}
    assert {0} == {each.site.step for each in chain.links}


def test_inherited_error_and_gain_are_told_apart_from_own(lab):
    subject = lab.capture(
        dtype="float32", attention="eager", plant=plant("0/0/attn_out", "scaled by 1.03")
    )
    oracle = lab.capture(dtype="float32", attention="eager")
    links = {str(each.site): each for each in build(lab.evaluator(), subject, oracle=oracle).links}
    there, after = links["0/0/attn_out"], links["0/1/attn_out"]
    assert there.inherited < 1e-6 < there.own.error
    assert after.own.error < 1e-6 < after.inherited
    assert after.gain == pytest.approx(after.inherited / links["0/1/attention"].total)


def test_the_first_divergence_is_the_planted_one(lab):
    subject = lab.capture(
        dtype="bfloat16", attention="eager", plant=plant("0/1/attention", "tokens shifted by one")
    )
    chain = build(
        lab.evaluator("bfloat16"),
        subject,
        oracle=lab.capture(dtype="float32", attention="eager"),
        control=lab.capture(dtype="bfloat16", attention="eager"),
    )
    assert site("0/1/attention") == chain.divergence.site
    assert str(chain.divergence) == "the first divergence is 0/1/attention"


SITES = tuple(
    Site(0, layer, name) for layer in (0, 1) for name in list(STAGES)[1:8] if name != "k_cache"
)


@given(st.sets(st.sampled_from(SITES)), st.sets(st.sampled_from(SITES)))
def test_first_is_said_only_where_everything_before_was_compared(failing, seen):
    failing &= seen
    ordered = sorted(SITES, key=lambda each: each.causal_key)
    chain = dict(zip(ordered[1:], ([each] for each in ordered), strict=False))
    found = first_divergence(failing, seen, chain, SITES)
    if not failing:
        assert found is None
        return
    assert min(failing, key=lambda each: each.causal_key) == found.site
    before = {each for each in SITES if each.causal_key < found.site.causal_key}
    assert (
        (before <= seen) == (not found.unseen) == str(found).startswith("the first divergence is")
    )
