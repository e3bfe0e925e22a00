"""Whatever a known family's configuration says, what was captured is explained, or refused."""

from __future__ import annotations

import tempfile

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from stages_support import SIZES, load, save_random, see  # noqa: E402 - needs torch

from pytest_falsify.captures.plan import Plan  # noqa: E402
from pytest_falsify.captures.record import record  # noqa: E402
from pytest_falsify.errors import CaptureError  # noqa: E402
from pytest_falsify.stages.vocabulary import Site  # noqa: E402

SEVERAL_ROUNDINGS = {"float32": 2**-20, "bfloat16": 2**-6, "float16": 2**-9}
"""Of a bias that the model adds while it multiplies and rounds once."""
BOOLEAN = st.booleans()
SMALL_WINDOW = st.sampled_from([2, 4])
ACTIVATION = st.sampled_from(
    ["silu", "gelu", "gelu_pytorch_tanh", "relu", "gelu_new", "quick_gelu", "mish"]
)


def of(*values):
    return st.sampled_from(values)


@st.composite
def rope(draw, **more):
    """A rotary embedding of any kind, some beyond the length that they were trained for."""
    kind = draw(of("default", "linear", "dynamic", "llama3", "yarn"))
    found = {"rope_type": kind, "rope_theta": draw(of(100.0, 10_000.0, 1_000_000.0)), **more}
    if kind != "default":
        found["factor"] = draw(of(2.0, 4.0))
    if kind in {"llama3", "yarn"}:
        found["original_max_position_embeddings"] = 4
    if kind == "llama3":
        found |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if kind == "yarn" and draw(BOOLEAN):
        found["attention_factor"] = 1.3
    return found


def settings_of(*, activation="hidden_act", rotary=None, **more):
    """What the families have in common, and what one of them has besides."""
    names = {
        activation: ACTIVATION,
        "rms_norm_eps": of(1e-6, 1e-2),
        "tie_word_embeddings": BOOLEAN,
        "num_attention_heads": of(2, 4),
        "num_key_value_heads": of(1, 2),
        "max_position_embeddings": of(16, 64),
        "rope_parameters": rope() if rotary is None else rotary,
        **more,
    }
    return st.fixed_dictionaries(names)


@st.composite
def phi3(draw):
    """Of the kinds of rotary embeddings it has one beside the default, whose factors are lists.

    Beyond ``original_max_position_embeddings`` the longer ones are taken: also in mid-decode.
    """
    found = draw(settings_of(rotary=st.just({}), sliding_window=of(None, 2, 4, 100)))
    part = draw(of(0.5, 1.0))
    count = int(SIZES["hidden_size"] // found["num_attention_heads"] * part) // 2
    rotary = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": part}
    if draw(BOOLEAN):
        rotary |= {"rope_type": "longrope", "short_factor": [1.5] * count}
        rotary |= {"long_factor": [4.0] * count}
    return {
        **found,
        "pad_token_id": 0,
        "rope_parameters": rotary,
        "original_max_position_embeddings": draw(of(4, 8, 64)),
    }


EXPERTS = {
    "num_experts": st.just(4),
    "num_experts_per_tok": of(1, 2, 3),
    "norm_topk_prob": BOOLEAN,
}
SOME_LAYERS = {
    "moe_intermediate_size": st.just(24),
    "mlp_only_layers": of([], [0], [1]),
    "decoder_sparse_step": of(1, 2),
}
WINDOWS = {
    "use_sliding_window": BOOLEAN,
    "sliding_window": SMALL_WINDOW,
    "max_window_layers": of(0, 1, 2),
}
HEAD = {"head_dim": of(8, 16)}
FAMILIES = {
    "Llama": settings_of(attention_bias=BOOLEAN, mlp_bias=BOOLEAN, **HEAD),
    "Mistral": settings_of(sliding_window=of(None, 2, 4, 100), **HEAD),
    "Qwen2": settings_of(**WINDOWS),
    "Qwen3": settings_of(attention_bias=BOOLEAN, **WINDOWS, **HEAD),
    "Gemma3": settings_of(
        activation="hidden_activation",
        rotary=st.fixed_dictionaries({"sliding_attention": rope(), "full_attention": rope()}),
        attention_bias=BOOLEAN,
        head_dim=st.just(16),
        query_pre_attn_scalar=of(8, 24),
        sliding_window=SMALL_WINDOW,
        layer_types=st.lists(of("sliding_attention", "full_attention"), min_size=2, max_size=2),
        final_logit_softcapping=of(None, 5.0),
        attn_logit_softcapping=of(None, 5.0),
        use_bidirectional_attention=of(False, False, False, True),
    ),
    "Phi3": phi3(),
    "GPT2": st.fixed_dictionaries(
        {
            "activation_function": ACTIVATION,
            "n_inner": of(None, 48),
            "scale_attn_by_inverse_layer_idx": BOOLEAN,
            "scale_attn_weights": BOOLEAN,
            "layer_norm_epsilon": of(1e-5, 1e-2),
            "tie_word_embeddings": BOOLEAN,
            "reorder_and_upcast_attn": of(False, False, False, True),
        }
    ),
    "Olmoe": settings_of(attention_bias=BOOLEAN, clip_qkv=of(None, 0.5), **EXPERTS),
    "Qwen2Moe": settings_of(
        shared_expert_intermediate_size=st.just(40),
        qkv_bias=BOOLEAN,
        **EXPERTS,
        **SOME_LAYERS,
        **WINDOWS,
    ),
    "Qwen3Moe": settings_of(attention_bias=BOOLEAN, **EXPERTS, **SOME_LAYERS, **HEAD),
    "Mixtral": settings_of(
        num_local_experts=st.just(4),
        num_experts_per_tok=of(1, 2),
        sliding_window=of(None, 2, 4, 100),
        **HEAD,
    ),
}
ARCHITECTURES = {"GPT2": "GPT2LMHeadModel"}
NOT_DESCRIBED = "use_bidirectional_attention", "reorder_and_upcast_attn"


def alike(found, expected):
    """Whether two tensors are the same, NaN where NaN is."""
    return found.dtype == expected.dtype and torch.equal(
        found.nan_to_num(), expected.nan_to_num()
    ) & torch.equal(found.isnan(), expected.isnan())


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(max_examples=25, derandomize=True, phases=[Phase.generate])
def test_every_configuration_is_explained_or_refused(family, data):
    options = data.draw(FAMILIES[family], "configuration")
    attention, dtype = data.draw(of("eager", "sdpa")), data.draw(of(*SEVERAL_ROUNDINGS))
    with tempfile.TemporaryDirectory() as folder:
        seed = data.draw(st.integers(0, 99), "seed")
        save_random(ARCHITECTURES.get(family, f"{family}ForCausalLM"), options, folder, seed=seed)
        if any(options.get(name) for name in NOT_DESCRIBED):
            with pytest.raises(CaptureError, match="are not described"):
                see(load(folder, attention=attention, dtype=dtype))
            return
        this = see(load(folder, attention=attention, dtype=dtype))
    bare = record(this.session, this.capture.inputs, Plan(decode_steps=2))
    assert [each.tobytes() for each in this.capture.logits] == [
        each.tobytes() for each in bare.logits
    ]
    chained = {}
    is_biased = this.graph.has(Site(0, 0, "qkv_bias"))
    for site in (each for step in range(3) for each in this.graph.sites(step)):
        assert site in this.tensors or site.stage in {"attn_scores", "attn_softmax"}
        if attention == "eager":
            must_be_explained(this, site, SEVERAL_ROUNDINGS[dtype])
        if site in this.tensors and not (is_biased and site.stage == "qkv_matmul"):
            found = this.graph.replay(site, chained, context=this.context)
            chained[site] = found.value
            assert found.through == ()
            assert alike(found.value, this.tensors[site]), site


def must_be_explained(this, site, of_biases):
    expected = this.tensors[site]
    found = this.graph.evaluate(site, this.tensors, context=this.context)
    if site.stage == "qkv_bias":
        error = (found.double() - expected.double()).norm()
        assert error <= of_biases * expected.double().norm()
    else:
        assert alike(found, expected), site
