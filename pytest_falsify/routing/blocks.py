"""Where a model of transformers routes: its router and its experts, layer by layer.

Since version 5 a mixture is one module with a router, which returns logits, weights and ids, and
experts, which are called with the hidden states, the ids and the weights. What the experts are
called with is what was dispatched, whatever the router returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import CaptureError
from pytest_falsify.routing.gate import Gate, Score

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

ROUTERS = ("gate", "router")
SHARED = ("shared_experts", "shared_expert")
BIAS = "e_score_correction_bias"
SIGMOID_TYPES = ("deepseek_v3", "glm4_moe")
OF_CHOSEN_TYPES = ("gpt_oss",)
ALWAYS_RENORMALISED = ("mixtral",)
"""Model types whose routers renormalise without a setting that says so."""
KNOWN = ("olmoe", "qwen2_moe", "qwen3_moe", *SIGMOID_TYPES, *OF_CHOSEN_TYPES, *ALWAYS_RENORMALISED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One layer's router and experts.

    Attributes:
        bias: (experts,) what the choice adds to the scores, as it is when looked at.
    """

    layer: int
    router: torch.nn.Module
    experts: torch.nn.Module
    gate: Gate
    bias: torch.Tensor | None


def blocks_of(model: torch.nn.Module) -> tuple[Block, ...]:
    """Return the routed layers of a model, in order.

    Raises:
        CaptureError: when it has none, or its routers follow a rule that is not known here.
    """
    config: Any = model.config
    found = tuple(_blocks(model, config))
    if not found:
        msg = f"model type `{config.model_type}` routes nothing that could be recorded"
        raise CaptureError(msg, expected="a mixture of experts of transformers 5")
    return found


def _blocks(model: torch.nn.Module, config: Any) -> Iterator[Block]:
    for name, module in model.named_modules():
        router = next((getattr(module, each) for each in ROUTERS if hasattr(module, each)), None)
        experts = getattr(module, "experts", None)
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        if router is None or experts is None or not numbers:
            continue
        bias = getattr(router, BIAS, None)
        gate = gate_of(config, shared=any(hasattr(module, each) for each in SHARED))
        yield Block(layer=numbers[0], router=router, experts=experts, gate=gate, bias=bias)


def gate_of(config: Any, *, shared: bool = False) -> Gate:
    """Return the rule that a configuration of transformers declares.

    Raises:
        CaptureError: for a model type whose rule is not known here.
    """
    kind = config.model_type
    if kind not in KNOWN:
        msg = f"how model type `{kind}` routes is not known here"
        raise CaptureError(msg, expected=f"one of {', '.join(KNOWN)}")
    is_sigmoid = kind in SIGMOID_TYPES
    is_of_chosen = kind in OF_CHOSEN_TYPES
    plain = Score.SOFTMAX_OF_CHOSEN if is_of_chosen else Score.SOFTMAX
    return Gate(
        score=Score.SIGMOID if is_sigmoid else plain,
        is_biased=is_sigmoid,
        is_renormalised=kind in ALWAYS_RENORMALISED or getattr(config, "norm_topk_prob", False),
        scale=float(getattr(config, "routed_scaling_factor", 1.0)),
        groups=int(getattr(config, "n_group", 1) or 1),
        chosen_groups=int(getattr(config, "topk_group", 1) or 1),
        shared_experts=int(getattr(config, "n_shared_experts", 0) or int(shared)),
    )
