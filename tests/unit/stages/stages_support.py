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
MODELS = {
    "llama": ("Llama", {}),
    "llama-biased": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", {}),
    "mistral-window": ("Mistral", {"sliding_window": 4}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {"head_dim": 16}),
}
PROMPT = TokenInputs(name="p", tokens=(1, 5, 9, 3, 60, 2, 2))
DECODE_STEPS = 2


def load(folder, **options):
    """Load a model as the transformers engine does."""
    target = Target(name="t", model=str(folder), line=1)
    spec = CaptureSpec(name="c", engine="transformers", line=1, options=options)
    return engine("transformers").load(target, spec, root=Path(folder), device="cpu")


def save_tiny(name: str, folder: Path) -> Path:
    """Write a tiny model; no bias and no norm keeps the value that changes nothing."""
    family, options = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **options})
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) / 2)
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
