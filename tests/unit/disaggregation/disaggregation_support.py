"""Small models with random weights, and the workers and sessions that run them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines.registry import engine

if TYPE_CHECKING:
    from pathlib import Path

CACHES = ("k_cache", "v_cache")
TOKENS = tuple(range(3, 14))
SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 7},
    "qwen3": {
        "head_dim": 8,
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
}


def save_model(family: str, folder: Path) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **SMALL, **FAMILIES[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def open_session(name: str, folder: Path, **options):
    target = Target(name="t", model=str(folder), line=1)
    spec = CaptureSpec(name="c", engine=name, line=1, options=options)
    return engine(name).load(target, spec, root=folder, device="cpu")


def prompt(tokens=TOKENS, forced=()) -> TokenInputs:
    return TokenInputs(name="prompt", tokens=tuple(tokens), forced=tuple(forced))


def watching(*stages: str, steps: int = 2, has_transfer: bool = True) -> Plan:
    return Plan(stages=stages or CACHES, decode_steps=steps, has_transfer=has_transfer)
