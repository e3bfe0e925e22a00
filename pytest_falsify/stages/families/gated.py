"""Qwen2, Llama, Mistral, Qwen3: norms before attention and before a gated feed-forward."""

from __future__ import annotations

from pytest_falsify.stages import operations
from pytest_falsify.stages.adapter import (
    LAST_LAYER,
    LAYER_INPUT,
    PAST_KEYS,
    PAST_VALUES,
    QKV,
    Family,
    Tap,
    Way,
)

ENDS = {
    "embedding": Tap("model.embed_tokens"),
    "final_norm": Tap("model.norm"),
    "lm_head": Tap("lm_head"),
}
ATTENTION = {
    "attn_norm": Tap("model.layers.{i}.input_layernorm"),
    "attention": Tap("model.layers.{i}.self_attn.o_proj", is_input=True),
    "attn_out": Tap("model.layers.{i}.self_attn.o_proj"),
    "post_attn_residual": Tap("model.layers.{i}.post_attention_layernorm", is_input=True),
}
FEED_FORWARD = {
    "ffn_norm": Tap("model.layers.{i}.post_attention_layernorm"),
    "ffn_gate": Tap("model.layers.{i}.mlp.gate_proj"),
    "ffn_up": Tap("model.layers.{i}.mlp.up_proj"),
    "ffn_silu": Tap("model.layers.{i}.mlp.act_fn"),
    "ffn_swigl": Tap("model.layers.{i}.mlp.down_proj", is_input=True),
    "ffn_out": Tap("model.layers.{i}.mlp.down_proj"),
    "post_ffn_residual": Tap("model.layers.{i}"),
}

WAYS = {
    "embedding": (Way((), operations.embed),),
    "attn_norm": (Way((LAYER_INPUT,), operations.through),),
    "qkv_matmul": (Way(("attn_norm",), operations.project_without_bias),),
    "qkv_bias": (
        Way(("qkv_matmul",), operations.add_bias),
        Way(("attn_norm",), operations.project),
    ),
    "q_post_rope": (Way((QKV,), operations.query),),
    "k_post_rope": (Way((QKV,), operations.key),),
    "k_cache": (Way((PAST_KEYS, "k_post_rope"), operations.key_cache),),
    "v_cache": (Way((PAST_VALUES, QKV), operations.value_cache),),
    "attn_scores": (Way(("q_post_rope", "k_cache"), operations.scores),),
    "attn_softmax": (Way(("attn_scores",), operations.softmax),),
    "attention": (
        Way(("attn_softmax", "v_cache"), operations.weigh),
        Way(("q_post_rope", "k_cache", "v_cache"), operations.attend),
    ),
    "attn_out": (Way(("attention",), operations.through),),
    "post_attn_residual": (Way((LAYER_INPUT, "attn_out"), operations.add),),
    "ffn_norm": (Way(("post_attn_residual",), operations.through),),
    "ffn_gate": (Way(("ffn_norm",), operations.through),),
    "ffn_up": (Way(("ffn_norm",), operations.through),),
    "ffn_silu": (Way(("ffn_gate",), operations.through),),
    "ffn_swigl": (Way(("ffn_silu", "ffn_up"), operations.multiply),),
    "ffn_out": (Way(("ffn_swigl",), operations.through),),
    "post_ffn_residual": (Way(("post_attn_residual", "ffn_out"), operations.add),),
    "final_norm": (Way((LAST_LAYER,), operations.through),),
    "lm_head": (Way(("final_norm",), operations.through),),
}

GATED = Family(
    model_types=("qwen2", "llama", "mistral", "qwen3"),
    taps={**ENDS, **ATTENTION, **FEED_FORWARD},
    ways=WAYS,
)
