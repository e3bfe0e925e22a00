"""The subject's operations for families that are further from the first ones.

Phi-3 has fused projections, GPT-2 LayerNorms, learned positions, biases and no gate; Qwen3-MoE and
Mixtral send each token to some of their experts. Importing this makes them known to the subject.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from localize_subject import (
    OPERATIONS,
    PARTICULAR,
    WIDE_SILU,
    Family,
    Here,
    add,
    gelu_of,
    heads,
    key_heads,
    linear,
    multiply,
    split,
)

from pytest_falsify.stages.vocabulary import STAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from localize_subject import Operation, Tensor

FUSED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def in_order(operations: Mapping[str, Operation]) -> Mapping[str, Operation]:
    return {each: operations[each] for each in STAGES if each in operations}


def third(place: int) -> Callable[[Here, Tensor], Tensor]:
    """Return the rows of the queries, the keys or the values."""

    def part(here: Here, whole: Tensor) -> Tensor:
        keys = key_heads(here.config) * here.head_dim
        return whole.split([len(whole) - 2 * keys, keys, keys])[place]

    return part


def half(place: int) -> Callable[[Here, Tensor], Tensor]:
    return lambda _here, whole: whole.chunk(2)[place]


THIRDS = {name: third(place) for place, name in enumerate(FUSED)}
PHI3 = Family(
    names={
        **dict.fromkeys(FUSED, "self_attn.qkv_proj"),
        **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), "mlp.gate_up_proj"),
    },
    parts={**THIRDS, "mlp.gate_proj": half(0), "mlp.up_proj": half(1)},
)


def layer_norm(name: str, given: str) -> Operation:
    def computed(here: Here) -> Tensor:
        value = here.values[given]
        wide = value.to(torch.promote_types(value.dtype, torch.float32))
        centred = wide - wide.mean(-1, keepdim=True)
        power = (centred * centred).mean(-1, keepdim=True) + here.config.layer_norm_epsilon
        bias = here.bias(name)
        assert bias is not None
        return (centred / power.sqrt() * here.weight(name) + bias).to(value.dtype)

    return computed


def embedded(here: Here) -> Tensor:
    return here.weight("embed_tokens")[list(here.tokens)] + here.weight("wpe")[here.positions]


GPT2 = Family(
    body="transformer.",
    layers="transformer.h.{i}.",
    names={
        **dict.fromkeys(FUSED, "attn.c_attn"),
        "embed_tokens": "wte",
        "norm": "ln_f",
        "self_attn": "attn",
        "self_attn.o_proj": "attn.c_proj",
        "mlp.up_proj": "mlp.c_fc",
        "mlp.down_proj": "mlp.c_proj",
    },
    parts=THIRDS,
    operations=in_order(
        {
            **{
                name: each
                for name, each in OPERATIONS.items()
                if name not in {"ffn_gate", "ffn_swigl"}
            },
            "embedding": embedded,
            "attn_norm": layer_norm("ln_1", "layer_input"),
            "q_post_rope": lambda here: heads(here, split(here, here.values["qkv_bias"])[0]),
            "k_post_rope": lambda here: heads(here, split(here, here.values["qkv_bias"])[1]),
            "ffn_norm": layer_norm("ln_2", "post_attn_residual"),
            "ffn_silu": lambda here: gelu_of(here, here.values["ffn_up"]),
            "ffn_out": linear("mlp.down_proj", "ffn_silu"),
            "final_norm": layer_norm("norm", "layer_input"),
        }
    ),
)


def chosen(here: Here) -> tuple[Tensor, Tensor]:
    """Return the weights and the ids of each token's experts, the weights with the sum of one."""
    wide = here.values["moe_router_logits"].float()
    weights, ids = torch.exp(wide - wide.amax(-1, keepdim=True)).topk(
        here.config.num_experts_per_tok, -1
    )
    return weights / weights.sum(-1, keepdim=True), ids


def dispatched(here: Here) -> Tensor:
    """Ask the experts token by token."""
    module, given = here.module("mlp.experts"), here.values["ffn_norm"]
    ids, weights = here.values["moe_router_indices"], here.values["moe_router"].to(given.dtype)
    found = torch.zeros_like(given)
    for token in range(len(given)):
        for number, weight in zip(ids[token].tolist(), weights[token], strict=True):
            found[token] += weight * expert(here, module, number, given[token])
    return found


def expert(here: Here, module: torch.nn.Module, number: int, token: Tensor) -> Tensor:
    gate, up = multiply(here, token, module.gate_up_proj[number]).chunk(2, -1)
    wide = gate.float() if here.does(WIDE_SILU) and gate.dtype != torch.float64 else gate
    activated = (wide * torch.sigmoid(wide)).to(gate.dtype)
    return multiply(here, activated * up, module.down_proj[number])


def of_experts(router: Operation) -> Mapping[str, Operation]:
    return in_order(
        {
            **{
                name: each
                for name, each in OPERATIONS.items()
                if name not in {"ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl"}
            },
            "moe_router_logits": lambda here: multiply(
                here, here.values["ffn_norm"], here.weight("mlp.gate")
            ),
            "moe_router": router,
            "moe_router_indices": lambda here: chosen(here)[1],
            "moe_ffn_out": dispatched,
            "ffn_out": lambda here: here.values["moe_ffn_out"],
            "post_ffn_residual": add("post_attn_residual", "ffn_out"),
        }
    )


PARTICULAR |= {
    "phi3": PHI3,
    "gpt2": GPT2,
    "qwen3_moe": Family(
        operations=of_experts(
            lambda here: chosen(here)[0].to(here.values["moe_router_logits"].dtype)
        )
    ),
    "mixtral": Family(operations=of_experts(lambda here: chosen(here)[0])),
}
