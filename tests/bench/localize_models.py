"""The models of the bench: the trained fixture, and seeded ones of other families, all tiny."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from pytest_falsify.stages.rounded import rounded

if TYPE_CHECKING:
    from collections.abc import Mapping

TRAINED = Path(__file__).parents[2] / "fixtures" / "models" / "qwen2-tiny"
SHAPE: Mapping[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
MADE: Mapping[str, Mapping[str, Any]] = {
    "llama": {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
    "mistral": {
        "sliding_window": 12,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    },
    "qwen3": {
        "head_dim": 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    },
    "gemma3_text": {
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}
EXPERTS: Mapping[str, Any] = {"num_experts_per_tok": 2, "head_dim": 16}
MORE: Mapping[str, Mapping[str, Any]] = {
    "phi3": {"pad_token_id": 0},
    "gpt2": {"n_inner": 160, "bos_token_id": 0, "eos_token_id": 0, "num_key_value_heads": None},
    "qwen3_moe": {
        **EXPERTS,
        "num_experts": 6,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    },
    "mixtral": {**EXPERTS, "num_local_experts": 6},
}
"""Families whose projections are fused, whose norms keep a mean, or who have experts."""
FAMILIES = ("qwen2", *MADE)
SEED = 11


def load(family: str) -> Any:
    """Return a model in float32 with eager attention."""
    if family == "qwen2":
        found = transformers.AutoModelForCausalLM.from_pretrained(
            TRAINED, dtype=torch.float32, attn_implementation="eager"
        )
        return found.eval()
    config = transformers.AutoConfig.for_model(family, **{**SHAPE, **{**MADE, **MORE}[family]})
    torch.manual_seed(SEED)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    _trained_like(model)
    return model.eval()


def _trained_like(model: Any) -> None:
    """Give random weights the spread of trained ones: norms apart from 1, attention that looks."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if any(each in name for each in ("norm.weight", ".ln_")):
                parameter.add_(0.3 * drawn)
            elif any(each in name for each in ("embed_tokens", "wte", "wpe")) or name.endswith(
                "bias"
            ):
                parameter.copy_(0.3 * drawn)
            else:
                parameter.copy_(drawn * 1.5 / parameter.shape[-1] ** 0.5)


def declared(model: Any, regime: str) -> Any:
    """Return a copy with the weights that a subject of a regime declares, in its dtype."""
    found = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if regime in {"int8", "int4"} and parameter.dim() > 1 and "embed" not in name:
                parameter.copy_(rounded(parameter, f"{regime} groups"))
            elif regime == "bfloat16":
                parameter.data = parameter.data.to(torch.bfloat16)
    return found
