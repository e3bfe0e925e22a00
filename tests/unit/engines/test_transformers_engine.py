"""The transformers engine on the trained model: what it shows is what the model computes."""

from __future__ import annotations

import json
import shutil
import warnings

import ml_dtypes
import numpy as np
import pytest

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines.registry import engine
from pytest_falsify.engines.transformers import TransformersEngine
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import Site

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXT = "The function returns a new list"


def load(folder, **options):
    target = Target(name="t", model=str(folder), line=1)
    spec = CaptureSpec(name="c", engine="transformers", line=1, options=options)
    return engine("transformers").load(target, spec, root=folder, device="cpu")


@pytest.fixture(scope="module")
def session(qwen2_tiny):
    return load(qwen2_tiny)


@pytest.fixture(scope="module")
def prompt(session):
    return TokenInputs(name="prompt", tokens=session.encode(TEXT))


@pytest.fixture(scope="module")
def reference(qwen2_tiny, prompt):
    """What transformers itself reports of the same run."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        qwen2_tiny, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        return model(
            torch.tensor([prompt.tokens]), output_hidden_states=True, output_attentions=True
        )


def test_every_site_it_promises_is_there_with_its_dims_and_positions(session, prompt):
    capture = record(session, prompt, Plan(stages=None).resolved(session.stages))

    per_layer = len(session.stages) - 3
    assert len(capture.tensors) == per_layer * session.layer_count + 3
    assert capture.missing == ()
    for tensor in capture.tensors.values():
        assert tensor.dims in {"t d", "t v", "t h d", "t k d"}
        assert tensor.positions == tuple(range(len(prompt.tokens)))
        assert tensor.array.shape[0] == len(prompt.tokens)
        assert np.isfinite(tensor.array).all()


def test_residuals_and_logits_are_the_bits_that_transformers_itself_reports(
    session, prompt, reference
):
    plan = Plan(stages=("embedding", "post_ffn_residual", "final_norm", "lm_head"))
    capture = record(session, prompt, plan)

    def same(site, expected):
        np.testing.assert_array_equal(capture.tensors[site].array, expected[0].numpy())

    hidden = reference.hidden_states
    same(Site(0, None, "embedding"), hidden[0])
    for layer in range(session.layer_count - 1):
        same(Site(0, layer, "post_ffn_residual"), hidden[layer + 1])
    same(Site(0, None, "final_norm"), hidden[-1])
    same(Site(0, None, "lm_head"), reference.logits)


def test_the_stages_of_a_layer_fit_together(session, prompt):
    stages = (
        "embedding", "attn_norm", "attention", "attn_out", "post_attn_residual", "ffn_norm",
        "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out", "post_ffn_residual",
    )  # fmt: skip
    tensors = record(session, prompt, Plan(stages=stages)).tensors

    def at(layer, stage):
        return tensors[Site(0, layer, stage)].array

    for layer in range(session.layer_count):
        before = at(layer - 1, "post_ffn_residual") if layer else at(None, "embedding")
        after_attention = at(layer, "post_attn_residual")
        np.testing.assert_array_equal(before + at(layer, "attn_out"), after_attention)
        out = after_attention + at(layer, "ffn_out")
        np.testing.assert_array_equal(out, at(layer, "post_ffn_residual"))
        swigl = at(layer, "ffn_silu") * at(layer, "ffn_up")
        np.testing.assert_array_equal(swigl, at(layer, "ffn_swigl"))
        gate = at(layer, "ffn_gate")
        np.testing.assert_allclose(gate / (1 + np.exp(-gate)), at(layer, "ffn_silu"), rtol=1e-5)


def test_what_lies_inside_attention_is_what_transformers_itself_reports(session, prompt, reference):
    plan = Plan(stages=("q_post_rope", "k_post_rope", "attn_scores", "attn_softmax", "v_cache"))
    tensors = record(session, prompt, plan).tensors

    for layer in range(session.layer_count):
        q, k, scores, softmax, v = (tensors[Site(0, layer, stage)].array for stage in plan.stages)
        cache = reference.past_key_values.layers[layer]
        np.testing.assert_array_equal(softmax, reference.attentions[layer][0].numpy())
        np.testing.assert_array_equal(k, cache.keys[0].transpose(0, 1).numpy())
        np.testing.assert_array_equal(v, cache.values[0].transpose(0, 1).numpy())
        heads = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
        by_hand = np.einsum("thd,shd->hts", q, heads) * q.shape[-1] ** -0.5
        np.testing.assert_allclose(scores, by_hand, rtol=1e-4, atol=1e-5)
        masked = np.where(np.tri(len(q), dtype=bool), scores, -np.inf)
        weights = np.exp(masked - masked.max(-1, keepdims=True))
        expected = weights / weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(softmax, expected, rtol=1e-5, atol=1e-7)


def test_the_projections_are_shown_side_by_side_with_and_without_their_bias(session, prompt):
    tensors = record(session, prompt, Plan(stages=("qkv_matmul", "qkv_bias"))).tensors

    for layer in range(session.layer_count):
        attention = session.model.model.layers[layer].self_attn
        names = ("q_proj", "k_proj", "v_proj")
        bias = torch.cat([getattr(attention, name).bias for name in names]).detach().numpy()
        matmul, biased = (
            tensors[Site(0, layer, stage)].array for stage in ("qkv_matmul", "qkv_bias")
        )
        np.testing.assert_allclose(matmul + bias, biased, rtol=1e-5, atol=1e-5)
        assert np.abs(bias).max() > 0


def test_a_decode_step_shows_its_own_keys_and_the_whole_cache(session, prompt):
    plan = Plan(stages=("k_post_rope", "k_cache"), layers=(1,), decode_steps=2)
    tensors = record(session, prompt, plan).tensors
    count = len(prompt.tokens)

    cache = tensors[Site(2, 1, "k_cache")]
    own = tensors[Site(2, 1, "k_post_rope")]

    assert cache.positions == tuple(range(count + 2))
    assert own.positions == (count + 1,)
    np.testing.assert_array_equal(cache.array[-1:], own.array)
    np.testing.assert_array_equal(cache.array[:count], tensors[Site(0, 1, "k_cache")].array)


def test_a_fused_attention_says_what_it_cannot_show(qwen2_tiny, prompt):
    session = load(qwen2_tiny, attention="sdpa")

    with pytest.raises(CaptureError, match="attn_softmax") as caught:
        record(session, prompt, Plan(stages=("attn_softmax",)))

    assert "attention: eager" in str(caught.value)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_looking_does_not_change_what_is_seen(qwen2_tiny, prompt, attention, dtype):
    session = load(qwen2_tiny, attention=attention, dtype=dtype)

    stages = (*session.stages, *session.on_request)
    looked = record(session, prompt, Plan(stages=stages, decode_steps=3))
    assert session.model.config._attn_implementation == attention
    bare = record(session, prompt, Plan(decode_steps=3))

    assert len(looked.logits) == 4
    for one, other in zip(looked.logits, bare.logits, strict=True):
        assert one.tobytes() == other.tobytes()
    assert looked.continuation == bare.continuation
    assert bare.tensors == {}


def test_hooks_are_gone_after_a_run_even_one_that_failed(session, prompt):
    class Full(Exception):
        pass

    def sink(site, tensor):
        raise Full

    with pytest.raises(Full):
        session.run(prompt, Plan(stages=("attn_norm",)), sink)

    hooked = [m for m in session.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooked == []


def test_what_the_sink_keeps_is_not_written_to_again(session, prompt):
    first = record(session, prompt, Plan(stages=session.stages))
    bits = {site: each.array.tobytes() for site, each in first.tensors.items()}

    record(session, TokenInputs(name="other", tokens=prompt.tokens[::-1]), first.plan)

    assert {site: each.array.tobytes() for site, each in first.tensors.items()} == bits


def test_bfloat16_is_handed_out_as_it_was_computed(qwen2_tiny, prompt):
    session = load(qwen2_tiny, dtype="bfloat16")

    captured = record(session, prompt, Plan(stages=("final_norm",)))
    array = captured.tensors[Site(0, None, "final_norm")].array

    assert array.dtype == ml_dtypes.bfloat16


def test_decoding_is_greedy_and_agrees_with_generate(session, prompt):
    capture = record(session, prompt, Plan(stages=("lm_head",), decode_steps=6))

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        out = session.model.generate(
            torch.tensor([prompt.tokens]), max_new_tokens=6, min_new_tokens=6, do_sample=False
        )
    assert capture.continuation == tuple(out[0, len(prompt.tokens) :].tolist())
    last = capture.tensors[Site(6, None, "lm_head")]
    assert last.positions == (len(prompt.tokens) + 5,)
    assert last.array.shape[0] == 1


def test_layers_can_be_chosen(session, prompt):
    capture = record(session, prompt, Plan(stages=("attn_out", "lm_head"), layers=(1, 3)))

    assert list(map(str, capture.tensors)) == ["0/1/attn_out", "0/3/attn_out", "0/-/lm_head"]


def test_the_identity_changes_with_what_decides_the_numbers_and_not_with_the_place(
    qwen2_tiny, tmp_path, session
):
    moved = shutil.copytree(qwen2_tiny, tmp_path / "moved")
    (moved / "README.md").write_text("another")
    same = load(moved).identity().digest
    config = json.loads((moved / "config.json").read_text())

    assert same == session.identity().digest
    digests = {
        same,
        load(qwen2_tiny, attention="sdpa").identity().digest,
        load(qwen2_tiny, dtype="bfloat16").identity().digest,
        load(qwen2_tiny, threads=2).identity().digest,
        load(qwen2_tiny, config={"rms_norm_eps": 1e-3}).identity().digest,
    }
    (moved / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert len(digests | {load(moved).identity().digest}) == 6


def test_a_configuration_override_changes_the_numbers(qwen2_tiny, session, prompt):
    other = load(qwen2_tiny, config={"rope_parameters": {"rope_theta": 500.0}})
    plan = Plan(stages=("attn_norm", "attention"), layers=(0,))

    usual, changed = record(session, prompt, plan), record(other, prompt, plan)

    def same(site):
        return np.array_equal(usual.tensors[site].array, changed.tensors[site].array)

    assert same(Site(0, 0, "attn_norm"))
    assert not same(Site(0, 0, "attention"))


MISTAKES = {
    "token outside the vocabulary": (lambda n: (n,), Plan(), "outside the vocabulary"),
    "no tokens": (lambda _: (), Plan(), "no tokens"),
    "too long": (lambda _: (1,) * 1024, Plan(decode_steps=1), "positions, the model has"),
    "layer out of range": (lambda _: (1,), Plan(stages=("attn_out",), layers=(4,)), "out of range"),
    "a stage it cannot show": (lambda _: (1,), Plan(stages=("moe_router",)), "moe_router"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_fit_the_model_is_refused(session, mistake):
    tokens, plan, words = MISTAKES[mistake]
    vocabulary = session.model.config.vocab_size

    with pytest.raises(CaptureError, match=words):
        record(session, TokenInputs(name="p", tokens=tokens(vocabulary)), plan)


def test_minus_one_position_is_no_bound(session, prompt, monkeypatch):
    monkeypatch.setattr(session.model.config, "max_position_embeddings", -1)

    assert len(record(session, prompt, Plan(decode_steps=1)).logits) == 2


def test_a_misspelt_configuration_key_is_refused_with_the_nearest(qwen2_tiny):
    with pytest.raises(CaptureError, match="rms_norm_ep") as caught:
        load(qwen2_tiny, config={"rms_norm_ep": 1.0})

    assert "did you mean `rms_norm_eps`?" in str(caught.value)


def test_weights_that_lack_a_tensor_are_refused_and_never_made_up(qwen2_tiny, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(qwen2_tiny, tmp_path / "lacking")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(CaptureError, match="lack 1 tensor "):
        load(folder)


def test_it_needs_no_thread_setting_of_the_process(session, prompt):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        record(session, prompt, Plan())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_every_option_has_a_default_or_is_optional():
    assert set(TransformersEngine.options) == {
        "dtype", "attention", "experts", "threads", "batch", "config", "rounding", "activations",
        "plant", "rounded_weights",
    }  # fmt: skip


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen3"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_other_families_are_shown_and_left_undisturbed(tmp_path, family, attention):
    """Their weights are random: what is on trial is the map of stages, not the numbers."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(tmp_path)
    session = load(tmp_path, attention=attention)
    prompt = TokenInputs(name="p", tokens=(1, 5, 9, 3))

    stages = (*session.stages, *session.on_request)
    looked = record(session, prompt, Plan(stages=stages, decode_steps=2))
    bare = record(session, prompt, Plan(decode_steps=2))

    assert "qkv_bias" not in stages
    assert looked.missing == ()
    for one, other in zip(looked.logits, bare.logits, strict=True):
        assert one.tobytes() == other.tobytes()


def test_rounding_disturbs_as_much_as_the_dtype_it_imitates_and_repeats(qwen2_tiny, prompt):
    from pytest_falsify.compare.comparison import compare_captures

    def capture(**options):
        session = load(qwen2_tiny, **options)
        return record(session, prompt, Plan(stages=session.stages))

    oracle = capture()
    real = compare_captures(capture(dtype="bfloat16"), oracle)
    imitated = capture(rounding={"dtype": "bfloat16", "seed": 3})

    for site in compare_captures(imitated, oracle).sites:
        found, expected = site.total.rel_l2, real.at(site.site).total.rel_l2
        assert expected / 4 < found < expected * 4, site.site
    again = capture(rounding={"dtype": "bfloat16", "seed": 3})
    other = capture(rounding={"dtype": "bfloat16", "seed": 4})
    assert again.logits[0].tobytes() == imitated.logits[0].tobytes()
    assert other.logits[0].tobytes() != imitated.logits[0].tobytes()


def test_a_disturbed_run_is_seen_as_it_was_disturbed(qwen2_tiny, prompt):
    session = load(qwen2_tiny, rounding={"dtype": "bfloat16"})

    looked = record(session, prompt, Plan(stages=session.stages))
    bare = record(session, prompt, Plan())

    assert looked.logits[0].tobytes() == bare.logits[0].tobytes()
    final = looked.tensors[Site(0, None, "lm_head")].array
    assert final.tobytes() == looked.logits[0].tobytes()
