"""What a recorder keeps is what was dispatched, in real models of six families and in own loops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from routing_support import GATES, make_facts, make_layer

from pytest_falsify.errors import CaptureError
from pytest_falsify.routing.gate import Gate
from pytest_falsify.routing.recompute import disagreement
from pytest_falsify.routing.recorder import RoutingRecorder, TokenFacts
from pytest_falsify.routing.routing_v1 import write_routing
from pytest_falsify.routing.run import read_run

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pytest_falsify.routing.watch import recording  # noqa: E402

MODEL = Path(__file__).parents[3] / "fixtures" / "models" / "olmoe-tiny"
COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "olmoe": {"num_experts": 8},
    "qwen2_moe": {
        "num_experts": 8,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "decoder_sparse_step": 1,
    },
    "qwen3_moe": {
        "num_experts": 8,
        "moe_intermediate_size": 16,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "head_dim": 8,
    },
    "mixtral": {"num_local_experts": 8},
    "gpt_oss": {"num_local_experts": 8, "head_dim": 8},
    "deepseek_v3": {
        "n_routed_experts": 8,
        "num_local_experts": 8,
        "n_group": 4,
        "topk_group": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "num_hidden_layers": 3,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
    },
}


def random_model(kind, dtype=torch.float32):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**COMMON, **FAMILIES[kind]})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "gate.weight" in name or "router" in name:
                each.normal_(0, 0.5)
        for name, each in model.named_buffers():
            if "e_score_correction_bias" in name:
                each.normal_(0, 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def olmoe():
    return transformers.AutoModelForCausalLM.from_pretrained(
        MODEL, local_files_only=True, dtype=torch.float32
    ).eval()


def recorded(model, run, **facts):
    with torch.inference_mode(), recording(model, make_facts(**facts)) as found:
        run(model)
    return found.routings()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_each_family_dispatches_what_its_declared_gate_gives(kind, dtype, tmp_path):
    model = random_model(kind, dtype)
    ids = torch.arange(12)[None] % 64
    (routing,) = recorded(model, lambda each: each(input_ids=ids))

    assert all(disagreement(each).rows.tolist() == [] for each in routing.layers.values())
    assert read_run(write_routing(routing, tmp_path)).routing.layers.keys() == routing.layers.keys()


def test_deepseeks_gate_is_declared_with_its_groups_bias_and_scale():
    (routing,) = recorded(
        random_model("deepseek_v3"), lambda each: each(input_ids=torch.arange(5)[None])
    )
    layer = routing.layers[1]
    assert sorted(routing.layers) == [1, 2]  # the first is dense
    assert str(layer.gate) == (
        "sigmoid, biased, renormalised, 2 of 4 groups, scaled by 2.5, 1 shared"
    )
    unbiased = replace(layer, bias=None, gate=replace(layer.gate, is_biased=False))
    assert len(disagreement(unbiased).rows) > 0


def test_what_the_experts_were_given_is_recorded_and_not_what_the_router_says(olmoe):
    def other(_module, given):
        hidden, indices, weights = given
        return hidden, (indices + 1) % 16, weights

    handle = olmoe.model.layers[1].mlp.experts.register_forward_pre_hook(other)
    try:
        (routing,) = recorded(olmoe, lambda each: each(input_ids=torch.arange(6)[None]))
    finally:
        handle.remove()
    assert len(disagreement(routing.layers[0]).rows) == 0
    assert len(disagreement(routing.layers[1]).rows) == 6


def test_each_sequence_of_a_batch_is_routed_as_it_is_alone(olmoe):
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        MODEL, local_files_only=True, padding_side="left"
    )
    texts = ["The function returns", "If the file does not exist, an exception is raised"]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    together = recorded(
        olmoe, lambda each: each.generate(**batch, max_new_tokens=4, do_sample=False), run_id="b"
    )

    assert [each.facts.run_id for each in together] == ["b/000", "b/001"]
    for text, found in zip(texts, together, strict=True):
        one = tokenizer(text, return_tensors="pt")
        (alone,) = recorded(
            olmoe,
            lambda each, one=one: each.generate(**one, max_new_tokens=4, do_sample=False),
        )
        assert alone.tokens.ids.tolist() == found.tokens.ids.tolist()
        assert len(alone.tokens) == one["input_ids"].shape[1] + 3
        for index, layer in alone.layers.items():
            assert layer.indices.tolist() == found.layers[index].indices.tolist()
            assert np.allclose(layer.logits, found.layers[index].logits, atol=1e-4)
        known = ~np.isnan(alone.tokens.logprobs)
        assert np.allclose(alone.tokens.logprobs[known], found.tokens.logprobs[known], atol=1e-4)
        assert known.sum() == 3


def test_each_token_has_the_logit_that_the_model_gave_it(olmoe):
    ids = torch.tensor([[48, 631, 266, 507]])
    (routing,) = recorded(olmoe, lambda each: each(input_ids=ids))
    with torch.inference_mode():
        logits = olmoe(input_ids=ids).logits[0]
    expected = logits[:-1].gather(1, ids[0, 1:, None])[:, 0]
    assert np.isnan(routing.tokens.logits[0])
    assert routing.tokens.logits[1:] == pytest.approx(expected.numpy(), abs=1e-5)
    assert routing.tokens.logprobs[1:] == pytest.approx(
        logits[:-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].numpy(), abs=1e-5
    )


def test_recording_changes_no_bit_of_the_answer(olmoe):
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        alone = olmoe(input_ids=ids).logits
        with recording(olmoe, make_facts()):
            watched = olmoe(input_ids=ids).logits
        after = olmoe(input_ids=ids).logits
    assert torch.equal(alone, watched)
    assert torch.equal(alone, after)


def test_a_model_that_routes_nothing_is_refused():
    config = transformers.AutoConfig.for_model(
        "qwen2", **{key: value for key, value in COMMON.items() if "experts" not in key}
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(CaptureError, match="routes nothing"), recording(model, make_facts()):
        pass


class OnlyArray:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


class OnlyDlpack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


FORMS = {
    "numpy": lambda each: each,
    "list": lambda each: each.tolist(),
    "torch": torch.tensor,
    "torch that needs a gradient": lambda each: torch.tensor(each, requires_grad=True),
    "__array__": OnlyArray,
    "dlpack": OnlyDlpack,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_logits_of_any_framework_are_taken(form):
    layer = make_layer(tokens=1)
    recorder = RoutingRecorder(facts=make_facts(), active=4)
    recorder.record_token(7, {0: form(layer.logits[0]), 5: form(layer.logits[0])})
    found = recorder.routing()
    assert sorted(found.layers) == [0, 5]
    assert found.layers[5].indices.tolist() == layer.indices.tolist()
    assert found.facts.capture["dispatch"] == "recomputed"


def test_bfloat16_of_torch_keeps_its_dtype():
    recorder = RoutingRecorder(facts=make_facts(), active=1)
    recorder.record_token(7, {0: torch.tensor([1.0, 2.0], dtype=torch.bfloat16)})
    assert recorder.routing().layers[0].logits.dtype.name == "bfloat16"


def test_what_was_dispatched_is_kept_beside_the_logits(tmp_path):
    recorder = RoutingRecorder(facts=make_facts(), active=2, gate=Gate(is_renormalised=True))
    for token in range(3):
        recorder.record_token(
            TokenFacts(id=token, text="x", start=token, end=token + 0.5, logit=1.5, logprob=-0.1),
            {3: np.array([0.0, 3.0, 1.0, 2.0])},
            dispatched={3: (torch.tensor([0, 2]), [0.25, 0.75])},
        )
    found = read_run(write_routing(recorder.routing(), tmp_path)).routing
    assert found.layers[3].indices.tolist() == [[0, 2]] * 3
    assert found.tokens.contexts.tolist() == [1, 2, 3]
    assert found.tokens.logprobs.tolist() == pytest.approx([-0.1] * 3)
    assert "dispatch" not in found.facts.capture
    assert disagreement(found.layers[3]).rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("logits", "dispatched", "what"),
    [
        ({}, None, "without a routed layer"),
        ({1: np.zeros(4)}, None, r"layers \[1\] after \[0\]"),
        ({0: np.zeros(5)}, None, "5 experts after 4"),
        ({0: np.zeros((1, 4))}, None, r"shape \(1, 4\)"),
        ({0: np.array([0, 1, np.nan, 2])}, None, "finite"),
        ({0: ["a", "b", "c", "d"]}, None, "holds <U1"),
        ({0: np.zeros(4)}, {1: ([0, 1], [1, 1])}, "were dispatched"),
        ({0: np.zeros(4)}, {0: ([0], [1])}, "whole ids"),
        ({0: np.zeros(4)}, {0: ([0.0, 1.0], [1, 1])}, "whole ids"),
    ],
)
def test_what_does_not_fit_is_refused_and_not_kept(logits, dispatched, what):
    recorder = RoutingRecorder(facts=make_facts(), active=2)
    recorder.record_token(1, {0: np.arange(4.0)})
    with pytest.raises(CaptureError, match=what):
        recorder.record_token(2, logits, dispatched=dispatched)
    assert recorder.routing().tokens.ids.tolist() == [1]


def test_a_bias_is_part_of_what_is_recorded():
    gate = replace(GATES["grouped"], groups=1, chosen_groups=1)
    layer = make_layer(tokens=1, gate=gate)
    recorder = RoutingRecorder(facts=make_facts(), active=4, gate=gate, biases={0: layer.bias})
    recorder.record_token(1, {0: layer.logits[0]})
    assert recorder.routing().layers[0].indices.tolist() == layer.indices.tolist()


def test_an_empty_recording_is_no_run():
    with pytest.raises(CaptureError, match="no evidence"):
        RoutingRecorder(facts=make_facts(), active=2).routing()
