"""Models for the bench of routing: a trained one, random ones, and faults in what they route."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from pytest_falsify.engines.handout import off_device
from pytest_falsify.routing.blocks import blocks_of
from pytest_falsify.routing.trace import LayerRouting, Routing, RunFacts
from pytest_falsify.routing.watch import recording

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_falsify.routing.faults import RoutingFault

TRAINED = Path(__file__).parents[2] / "fixtures" / "models" / "olmoe-tiny"
FACTS = RunFacts(
    run_id="bench", created_at="2026-01-01T00:00:00Z", model_id="bench", tokenizer_id="bench"
)
BIASED: dict[str, Any] = {
    "vocab_size": 1536,
    "hidden_size": 64,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 0,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 16,
    "num_local_experts": 16,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "max_position_embeddings": 1024,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a model is run.

    Attributes:
        companions: how many other sequences stand beside it in the batch.
    """

    name: str
    dtype: torch.dtype
    attention: str = "eager"
    experts: str = "eager"
    companions: int = 0


def random_olmoe(layers: int, experts: int, hidden: int, inner: int) -> Any:
    """Return an OLMoE with random weights, eight experts active."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "olmoe", vocab_size=1024, hidden_size=hidden, intermediate_size=inner,
        num_hidden_layers=layers, num_experts=experts, num_experts_per_tok=8,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024,
        initializer_range=0.1,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def trained(setting: Setting, *, renormalised: bool = False) -> Any:
    """Return the trained OLMoE, as it is or with weights renormalised."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        TRAINED, local_files_only=True, dtype=setting.dtype, attn_implementation=setting.attention
    ).eval()
    model.set_experts_implementation(setting.experts)
    model.config.norm_topk_prob = renormalised
    for layer in model.model.layers:
        layer.mlp.gate.norm_topk_prob = renormalised
    return model


def biased(setting: Setting) -> Any:
    """Return a DeepSeek-V3 with random weights, biases and groups."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("deepseek_v3", **BIASED)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=setting.attention
    )
    with torch.no_grad():
        for name, each in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("gate.weight"):
                each.normal_(0, 0.2)
            if name.endswith("e_score_correction_bias"):
                each.normal_(0, 0.1)
    model = model.eval()
    biases = [each.bias.clone() for each in blocks_of(model)]
    model = model.to(setting.dtype)
    for block, bias in zip(blocks_of(model), biases, strict=True):
        block.router.e_score_correction_bias = bias  # served in float32, as the paper's are
    model.set_experts_implementation(setting.experts)
    return model


@torch.inference_mode()
def routed(model: Any, ids: list[int], setting: Setting) -> Routing:
    """Return the routing of one text, alone or as the first of a batch."""
    rows = [ids, *(ids[shift:] + ids[:shift] for shift in range(1, setting.companions + 1))]
    with recording(model, FACTS) as found:
        model(input_ids=torch.tensor(rows), use_cache=False)
    return found.routings()[0]


@contextmanager
def faulty(model: Any, fault: RoutingFault) -> Iterator[None]:
    """Plant a fault in every router of a model: what follows inherits it."""
    handles = [
        block.router.register_forward_hook(_planting(block, fault)) for block in blocks_of(model)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _planting(block: Any, fault: RoutingFault) -> Any:
    bias = None if block.bias is None else off_device(block.bias)

    def hook(_module: Any, _given: Any, output: tuple[torch.Tensor, ...]) -> Any:
        logits, weights, ids = output
        layer = LayerRouting(
            logits=off_device(logits),
            indices=off_device(ids),
            weights=off_device(weights),
            gate=block.gate,
            bias=bias,
        )
        found = fault.plant(layer) or layer
        return (
            torch.from_numpy(found.logits.astype(np.float32)).to(logits.dtype),
            torch.from_numpy(found.weights.astype(np.float32)).to(weights.dtype),
            torch.from_numpy(found.indices.astype(np.int64)),
        )

    return hook
