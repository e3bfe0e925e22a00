"""GPT-2: LayerNorm, learned positions, one fused projection, a feed-forward without a gate.

``embedding`` is the sum of token and position. No rotation: ``q_post_rope`` and ``k_post_rope``
are what enters attention. ``ffn_silu`` is the activation, which is a GELU here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.stages import operations
from pytest_falsify.stages.adapter import QKV, Family, Tap, Way
from pytest_falsify.stages.families.gated import WAYS

if TYPE_CHECKING:
    import torch

    from pytest_falsify.stages.operations import Place


def _embed(place: Place) -> torch.Tensor:
    body = place.model.transformer
    found: torch.Tensor = (body.wte(place.tokens) + body.wpe(place.positions))[0]
    return found


def _query(place: Place, qkv: torch.Tensor) -> torch.Tensor:
    return operations.heads(place, operations.split_projections(place, qkv)[0])


def _key(place: Place, qkv: torch.Tensor) -> torch.Tensor:
    return operations.heads(place, operations.split_projections(place, qkv)[1])


def _softmax(place: Place, scores: torch.Tensor) -> torch.Tensor:
    """Mask the scores and make weights of them in their own dtype, as GPT-2 does."""
    return operations.softmax(place, scores, dtype=scores.dtype)


GPT2 = Family(
    model_types=("gpt2",),
    taps={
        "embedding": Tap("transformer.drop"),
        "attn_norm": Tap("transformer.h.{i}.ln_1"),
        "attention": Tap("transformer.h.{i}.attn.c_proj", is_input=True),
        "attn_out": Tap("transformer.h.{i}.attn.c_proj"),
        "post_attn_residual": Tap("transformer.h.{i}.ln_2", is_input=True),
        "ffn_norm": Tap("transformer.h.{i}.ln_2"),
        "ffn_up": Tap("transformer.h.{i}.mlp.c_fc"),
        "ffn_silu": Tap("transformer.h.{i}.mlp.act"),
        "ffn_out": Tap("transformer.h.{i}.mlp.c_proj"),
        "post_ffn_residual": Tap("transformer.h.{i}"),
        "final_norm": Tap("transformer.ln_f"),
        "lm_head": Tap("lm_head"),
    },
    ways={
        **{name: ways for name, ways in WAYS.items() if name not in {"ffn_gate", "ffn_swigl"}},
        "embedding": (Way((), _embed),),
        "q_post_rope": (Way((QKV,), _query),),
        "k_post_rope": (Way((QKV,), _key),),
        "attn_softmax": (Way(("attn_scores",), _softmax),),
        "ffn_silu": (Way(("ffn_up",), operations.through),),
        "ffn_out": (Way(("ffn_silu",), operations.through),),
    },
    attention="transformer.h.{i}.attn",
    projections=("transformer.h.{i}.attn.c_attn",),
    excludes=("reorder_and_upcast_attn", "add_cross_attention"),
)
