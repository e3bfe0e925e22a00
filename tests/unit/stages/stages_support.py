"""Tiny models of every family with random weights, captured whole."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import transformers

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines.registry import engine
from pytest_falsify.stages.graph import Context, StageGraph

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0}
WINDOW = {"sliding_window": 4}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
MODELS = {
    "llama": ("LlamaForCausalLM", {}),
    "llama-biased": ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralForCausalLM", {}),
    "mistral-window": ("MistralForCausalLM", WINDOW),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen2-window": (
        "Qwen2ForCausalLM",
        {"use_sliding_window": True, "max_window_layers": 1, **WINDOW},
    ),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 16}),
    "gemma3": (
        "Gemma3ForCausalLM",
        {
            "head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 24,
            **WINDOW,
        },
    ),
    "phi3": ("Phi3ForCausalLM", {"pad_token_id": 0, "partial_rotary_factor": 0.5, **WINDOW}),
    "gpt2": ("GPT2LMHeadModel", {"n_inner": 48, "scale_attn_by_inverse_layer_idx": True}),
    "olmoe": ("OlmoeForCausalLM", EXPERTS),
    "olmoe-clipped": ("OlmoeForCausalLM", {"clip_qkv": 0.5, "norm_topk_prob": True, **EXPERTS}),
    "qwen2-moe": (
        "Qwen2MoeForCausalLM",
        {
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
            "mlp_only_layers": [0],
            **EXPERTS,
        },
    ),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM",
        {"moe_intermediate_size": 24, "head_dim": 16, **EXPERTS},
    ),
    "mixtral": (
        "MixtralForCausalLM",
        {"num_local_experts": 4, "num_experts_per_tok": 2, **WINDOW},
    ),
}
PROMPT = TokenInputs(name="p", tokens=(1, 5, 9, 3, 60, 2, 2))
DECODE_STEPS = 2


def load(folder, **options):
    """Load a model as the transformers engine does."""
    target = Target(name="t", model=str(folder), line=1)
    spec = CaptureSpec(name="c", engine="transformers", line=1, options=options)
    return engine("transformers").load(target, spec, root=Path(folder), device="cpu")


def save_tiny(name: str, folder: Path) -> Path:
    """Write a tiny model of this file's list."""
    return save_random(*MODELS[name], folder)


def save_random(architecture: str, options: dict, folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny model; no bias and no norm keeps the value that changes nothing."""
    torch.manual_seed(seed)
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(**{**SIZES, **SPECIAL, **options}))
    with torch.no_grad():
        for each in model.parameters():
            each.mul_(3).add_(torch.randn_like(each) / 2 if each.ndim == 1 else 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return folder


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All that one model showed, with the graph that should explain it."""

    session: object
    graph: StageGraph
    capture: object
    tensors: dict
    context: Context


@cache
def seen(name: str, attention: str, dtype: str = "float32") -> Seen:
    """Return the capture of a tiny model, made once."""
    with tempfile.TemporaryDirectory() as folder:
        session = load(save_tiny(name, Path(folder)), attention=attention, dtype=dtype)
        return see(session)


def see(session) -> Seen:
    """Capture everything that a session can show."""
    stages = tuple(dict.fromkeys((*session.stages, *session.on_request)))
    capture = record(session, PROMPT, Plan(stages=stages, decode_steps=DECODE_STEPS))
    return Seen(
        session=session,
        graph=StageGraph.of(session.model),
        capture=capture,
        tensors={
            site: torch.tensor(each.array.astype("float32")).to(session.model.dtype)
            if each.array.dtype.kind == "V" or str(each.array.dtype) == "bfloat16"
            else torch.tensor(each.array)
            for site, each in capture.tensors.items()
        },
        context=Context.of(PROMPT.tokens, capture.continuation),
    )
