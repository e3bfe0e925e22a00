"""Where each model family keeps its stages. A family is data; a new one is one more entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_falsify.stages.vocabulary import STAGES, Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.stages.vocabulary import Site


@dataclass(frozen=True, slots=True)
class Tap:
    """A place where a stage can be observed: a module's first input or its output.

    ``{i}`` in the module's name stands for the layer.
    """

    module: str
    is_input: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A model family.

    Attributes:
        model_types: its names in transformers' configurations.
        taps: where each stage that one module shows is observed.
        projections: the modules whose outputs, side by side, are ``qkv_bias``.
    """

    model_types: tuple[str, ...]
    taps: Mapping[str, Tap]
    projections: tuple[str, str, str] = (
        "model.layers.{i}.self_attn.q_proj",
        "model.layers.{i}.self_attn.k_proj",
        "model.layers.{i}.self_attn.v_proj",
    )

    def tap(self, site: Site) -> Tap | None:
        """Return where a site is observed, or None when no module shows it."""
        tap = self.taps.get(site.stage)
        if tap is None or STAGES[site.stage].scope is not Scope.LAYER:
            return tap
        return Tap(tap.module.format(i=site.layer), tap.is_input)


_PRE_NORM_GATED = {
    "embedding": Tap("model.embed_tokens"),
    "attn_norm": Tap("model.layers.{i}.input_layernorm"),
    "attention": Tap("model.layers.{i}.self_attn.o_proj", is_input=True),
    "attn_out": Tap("model.layers.{i}.self_attn.o_proj"),
    "post_attn_residual": Tap("model.layers.{i}.post_attention_layernorm", is_input=True),
    "ffn_norm": Tap("model.layers.{i}.post_attention_layernorm"),
    "ffn_gate": Tap("model.layers.{i}.mlp.gate_proj"),
    "ffn_up": Tap("model.layers.{i}.mlp.up_proj"),
    "ffn_silu": Tap("model.layers.{i}.mlp.act_fn"),
    "ffn_swigl": Tap("model.layers.{i}.mlp.down_proj", is_input=True),
    "ffn_out": Tap("model.layers.{i}.mlp.down_proj"),
    "post_ffn_residual": Tap("model.layers.{i}"),
    "final_norm": Tap("model.norm"),
    "lm_head": Tap("lm_head"),
}

FAMILIES = (Family(model_types=("qwen2", "llama", "mistral", "qwen3"), taps=_PRE_NORM_GATED),)


def family_of(model_type: str) -> Family | None:
    """Return the family of a transformers ``model_type``, or None when none is known."""
    return next((each for each in FAMILIES if model_type in each.model_types), None)
