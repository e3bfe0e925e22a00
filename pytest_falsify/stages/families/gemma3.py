"""Gemma-3: a norm before and one after each branch, and angles by kind of layer.

Its scaled embedding, its ``1 + w`` norms, its norms of queries and keys and its scaling of queries
are inside the modules that show the stages. ``lm_head`` is shown before logits are capped.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pytest_falsify.stages import operations
from pytest_falsify.stages.adapter import LAYER_INPUT, QKV, Family, Tap, Way
from pytest_falsify.stages.families.gated import ATTENTION, ENDS, FEED_FORWARD, WAYS

if TYPE_CHECKING:
    import torch

    from pytest_falsify.stages.operations import Place


def _angles(place: Place, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines: layers with a window rotate on another base."""
    assert place.site.layer is not None
    kind = place.config.layer_types[place.site.layer]
    cosines, sines = place.model.model.rotary_emb(like, place.positions, kind)
    return cosines, sines


GEMMA3 = Family(
    model_types=("gemma3_text",),
    taps={
        **ENDS,
        **ATTENTION,
        **FEED_FORWARD,
        "attn_post_norm": Tap("model.layers.{i}.post_attention_layernorm"),
        "post_attn_residual": Tap("model.layers.{i}.pre_feedforward_layernorm", is_input=True),
        "ffn_norm": Tap("model.layers.{i}.pre_feedforward_layernorm"),
        "ffn_post_norm": Tap("model.layers.{i}.post_feedforward_layernorm"),
    },
    ways={
        **WAYS,
        "q_post_rope": (Way((QKV,), partial(operations.query, angles=_angles)),),
        "k_post_rope": (Way((QKV,), partial(operations.key, angles=_angles)),),
        "attn_post_norm": (Way(("attn_out",), operations.through),),
        "post_attn_residual": (Way((LAYER_INPUT, "attn_post_norm"), operations.add),),
        "ffn_post_norm": (Way(("ffn_out",), operations.through),),
        "post_ffn_residual": (Way(("post_attn_residual", "ffn_post_norm"), operations.add),),
    },
    excludes=("use_bidirectional_attention",),
)
