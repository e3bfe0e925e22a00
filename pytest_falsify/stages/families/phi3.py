"""Phi-3: queries, keys and values come of one projection, the gate and what it gates of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.stages import operations
from pytest_falsify.stages.adapter import Family, Tap, Way
from pytest_falsify.stages.families.gated import ATTENTION, ENDS, FEED_FORWARD, WAYS

if TYPE_CHECKING:
    import torch

    from pytest_falsify.stages.operations import Place


def _activate(place: Place, gate: torch.Tensor) -> torch.Tensor:
    """Activate the gate where it lies in the model: beside what it gates, row by row.

    On the CPU an activation has other bits where rows are not one after the other.
    """
    import torch

    return operations.through(place, torch.cat([gate, gate], dim=-1)[:, : gate.shape[-1]])


PHI3 = Family(
    model_types=("phi3",),
    taps={
        **ENDS,
        **ATTENTION,
        **FEED_FORWARD,
        "ffn_gate": Tap("model.layers.{i}.mlp.gate_up_proj", part=(0, 2)),
        "ffn_up": Tap("model.layers.{i}.mlp.gate_up_proj", part=(1, 2)),
        "ffn_silu": Tap("model.layers.{i}.mlp.activation_fn"),
    },
    ways={**WAYS, "ffn_silu": (Way(("ffn_gate",), _activate),)},
    projections=("model.layers.{i}.self_attn.qkv_proj",),
)
