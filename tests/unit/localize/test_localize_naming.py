"""Every fault in the table is recognised where it is made, and nothing is named for no reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from localize_support import INPUTS, Lab, make_model, plant, site

from pytest_falsify.captures.plan import CACHES
from pytest_falsify.localize.chain import build
from pytest_falsify.localize.hypotheses import HYPOTHESES
from pytest_falsify.localize.naming import Subject, _trial, name_fault

OF_EXPERTS = {
    "router weights": "0/1/moe_router",
    "expert ids": "0/0/moe_router_indices",
    "experts": "0/1/moe_ffn_out",
}
AT = {
    "rope layout": "0/1/q_post_rope",
    "rope missing": "0/1/k_post_rope",
    "rope direction": "0/0/q_post_rope",
    "rope position": "0/1/k_post_rope",
    "rope base": "0/0/k_post_rope",
    "rope scaling": "0/1/q_post_rope",
    "gqa": "0/1/attention",
    "kv index": "0/0/attention",
    "cache slot": "0/1/v_cache",
    "mask": "0/0/attn_softmax",
    "padding": "0/1/attn_softmax",
    "soft-cap": "0/1/attn_scores",
    "head order": "0/0/q_post_rope",
    "token shift": "0/1/ffn_norm",
    "first token": "0/-/embedding",
    "transpose": "0/0/attention",
    "q/k/v order": "0/0/qkv_bias",
    "q/k permutation": "0/0/qkv_bias",
    "gate and up": "0/1/ffn_gate",
    "missing bias": "0/1/qkv_bias",
    "wrong layer": "0/1/ffn_out",
    "transposed weight": "0/0/attn_out",
    "norm weight": "0/1/attn_norm",
    "norm without weight": "0/-/final_norm",
    "norm epsilon": "0/1/ffn_norm",
    "norm kind": "0/0/attn_norm",
    "rounded weights": "0/0/ffn_up",
    "activation": "0/1/ffn_silu",
    "residual": "0/0/post_ffn_residual",
    "gate": "0/0/ffn_swigl",
    "rounded result": "0/1/ffn_out",
    "scale": "0/1/attn_out",
    "offset": "0/0/ffn_out",
    "scale and offset": "0/0/attn_out",
}
NEEDS_ANOTHER_MODEL = {"window", *OF_EXPERTS}


def stages_for(where):
    """Return what to ask for: caches are shown on request only."""
    return ("qkv_bias", "k_post_rope", *CACHES) if where.stage in CACHES else None


def made(lab, name, where):
    """Return a subject in which one operation was done with a fault of the table."""
    subject = lab.capture(stages=stages_for(where), dtype="float32", attention="eager")
    hypothesis = next(each for each in HYPOTHESES if each.name == name)
    trial = _trial(lab.evaluator().narrow, subject, where)
    fitted_to = {"scale": 1.25, "offset": 1.0, "scale and offset": 0.5}
    if name == "first token":
        table = trial.modules[0].weight
        faulty = torch.cat([table[9][None], trial.expected[:-1]])
    elif hypothesis.fitted:
        factor = fitted_to[name]
        shift = 0.0 if name == "scale" else 0.25
        faulty = trial.expected * factor + shift
    else:
        _, compute = next(iter(hypothesis.variants(trial)))
        with torch.inference_mode():
            faulty = compute(trial)
    tensors = {**subject.tensors}
    array = faulty.detach().numpy()
    tensors[where] = replace(tensors[where], array=array.astype(tensors[where].array.dtype))
    return replace(subject, tensors=tensors)


def test_every_fault_of_the_table_is_tried_here():
    assert {each.name for each in HYPOTHESES} == AT.keys() | NEEDS_ANOTHER_MODEL


@pytest.mark.parametrize("name", AT)
def test_a_fault_of_the_table_is_named(lab, name):
    where = site(AT[name])
    subject = made(lab, name, where)
    assert not np.array_equal(
        subject.tensors[where].array,
        lab.capture(stages=stages_for(where), dtype="float32", attention="eager")
        .tensors[where]
        .array,
    )
    named = name_fault(lab.evaluator(), subject, where)
    assert named is not None
    assert (name, True) == (named.fault, named.own.error < 1e-4)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("windowed")
    make_model(folder, "mistral", sliding_window=6, head_dim=8)
    return Lab(folder=folder)


def test_the_window_is_a_fault_of_models_that_have_one(lab, windowed):
    where = site("0/1/attn_softmax")
    assert (
        name_fault(windowed.evaluator(), made(windowed, "window", where), where).fault == "window"
    )
    subject = lab.capture(dtype="float32", attention="eager")
    trial = _trial(lab.evaluator().wide, subject, where)
    window = next(each for each in HYPOTHESES if each.name == "window")
    assert list(window.variants(trial)) == []


def test_a_fault_that_is_not_in_the_table_is_not_named(lab):
    subject = lab.capture(
        dtype="bfloat16", attention="eager", plant=plant("0/1/attn_out", "one channel negated")
    )
    chain = build(lab.evaluator("bfloat16"), subject)
    assert [site("0/1/attn_out")] == [each.site for each in chain.guilty]
    assert name_fault(lab.evaluator("bfloat16"), subject, site("0/1/attn_out")) is None


def test_trying_faults_leaves_the_model_as_it_was(lab):
    evaluator = lab.evaluator()
    model = evaluator.wide.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    for name in ("rope base", "norm weight", "missing bias", "wrong layer"):
        name_fault(evaluator, made(lab, name, site(AT[name])), site(AT[name]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert "forward" not in vars(model.model.rotary_emb)


def test_inputs_that_were_not_captured_are_replayed(lab):
    subject = lab.capture(
        stages=("embedding", "q_post_rope"),
        dtype="float32",
        plant=plant("0/0/q_post_rope", "heads exchanged"),
    )
    assert site("0/0/qkv_bias") not in Subject(subject, lab.evaluator().wide)
    assert name_fault(lab.evaluator(), subject, site("0/0/q_post_rope")).fault == "head order"


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


@pytest.fixture(scope="module")
def routed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("routed")
    make_model(folder, "qwen3_moe", head_dim=8, norm_topk_prob=True, **EXPERTS)
    return Lab(folder=folder)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    make_model(folder, "gpt2", n_inner=64, bos_token_id=0, eos_token_id=0)
    return Lab(folder=folder)


@pytest.mark.parametrize("name", OF_EXPERTS)
def test_a_fault_of_experts_is_named(routed, name):
    where = site(OF_EXPERTS[name])
    named = name_fault(routed.evaluator(), made(routed, name, where), where)
    assert (name, True) == (named.fault, named.own.error < 1e-4)


@pytest.mark.parametrize("family", ["routed", "learned"])
def test_families_that_lack_a_rotation_or_a_gate_are_judged_and_what_is_odd_has_no_name(
    family, request
):
    lab = request.getfixturevalue(family)
    subject = lab.capture(dtype="float32", attention="eager")
    assert build(lab.evaluator(), subject).guilty == ()
    drawn = np.random.default_rng(1)
    for where, tensor in subject.tensors.items():
        if where.layer == 1 or where.stage in OF_IDS:
            continue
        noise = 1 + 0.2 * drawn.standard_normal(tensor.array.shape)
        odd = replace(tensor, array=(tensor.array * noise).astype(np.float32))
        spoilt = replace(subject, tensors={**subject.tensors, where: odd})
        assert name_fault(lab.evaluator(), spoilt, where) is None


OF_IDS = {"moe_router_indices"}


def test_a_layer_norm_that_keeps_the_mean_is_named(learned):
    where = site("0/0/ffn_norm")
    subject = learned.capture(dtype="float32", attention="eager")
    given = subject.tensors[site("0/0/post_attn_residual")].array.astype(np.float64)
    norm = learned.session(dtype="float32", attention="eager").model.transformer.h[0].ln_2
    weight, bias = (each.detach().double().numpy() for each in (norm.weight, norm.bias))
    power = np.sqrt((given**2).mean(-1, keepdims=True) + norm.eps)
    faulty = (given / power * weight + bias).astype(np.float32)
    tensors = {**subject.tensors, where: replace(subject.tensors[where], array=faulty)}
    named = name_fault(learned.evaluator(), replace(subject, tensors=tensors), where)
    assert (named.fault, named.detail) == ("norm kind", "mean not subtracted")


def test_tokens_fed_late_to_learned_positions_are_named(learned):
    where = site("0/-/embedding")
    subject = learned.capture(dtype="float32", attention="eager")
    body = learned.session(dtype="float32", attention="eager").model.transformer
    tokens = INPUTS.tokens
    late = torch.tensor([tokens[0], *tokens[:-1]])
    with torch.no_grad():
        array = (body.wte(late) + body.wpe(torch.arange(len(tokens)))).numpy()
    tensors = {**subject.tensors, where: replace(subject.tensors[where], array=array)}
    named = name_fault(learned.evaluator(), replace(subject, tensors=tensors), where)
    assert (named.fault, named.detail) == ("token shift", "fed +1, the first one twice")


def test_a_transposed_part_of_a_fused_weight_is_named(tmp_path):
    make_model(tmp_path, "phi3", pad_token_id=0, bos_token_id=0, eos_token_id=0)
    fused = Lab(folder=tmp_path)
    subject, where = fused.capture(dtype="float32", attention="eager"), site("0/1/ffn_up")
    mlp = fused.session(dtype="float32", attention="eager").model.model.layers[1].mlp
    weight = mlp.gate_up_proj.weight.detach().chunk(2)[1].numpy()
    given = subject.tensors[site("0/1/ffn_norm")].array
    array = given @ weight.T.copy().reshape(weight.shape).T
    tensors = {**subject.tensors, where: replace(subject.tensors[where], array=array)}
    named = name_fault(fused.evaluator(), replace(subject, tensors=tensors), where)
    assert named.fault == "transposed weight"
