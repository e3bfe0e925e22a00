"""OLMoE, Qwen2-MoE, Qwen3-MoE, Mixtral: a router sends each token to some of many experts.

What the router decided is read where the experts receive it: it is what was dispatched. A layer
without experts, which some of these models have, is an ordinary gated one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.stages import operations
from pytest_falsify.stages.adapter import PAST_VALUES, QKV, Family, Tap, Way
from pytest_falsify.stages.families.gated import ATTENTION, ENDS, FEED_FORWARD, WAYS

if TYPE_CHECKING:
    import torch

    from pytest_falsify.stages.operations import Place

BLOCK = "model.layers.{i}.mlp"
ROUTER, EXPERTS, DOWN = f"{BLOCK}.gate", f"{BLOCK}.experts", f"{BLOCK}.down_proj"

TAPS = {
    **ENDS,
    **ATTENTION,
    **FEED_FORWARD,
    "moe_router_logits": Tap(ROUTER, is_flat=True),
    "moe_router": Tap(EXPERTS, is_input=True, item=2, is_flat=True),
    "moe_router_indices": Tap(EXPERTS, is_input=True, item=1, is_flat=True),
    "moe_ffn_out": Tap(EXPERTS, is_flat=True),
    "ffn_out": Tap(BLOCK),
}


def _down(place: Place, gated: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = place.module(DOWN)(gated[None])[0]
    return found


def _chosen(place: Place, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights and the ids of the experts that each token goes to, (tokens, top k)."""
    import torch

    router = place.module(ROUTER)
    probabilities = torch.nn.functional.softmax(logits, dtype=torch.float, dim=-1)
    weights, ids = torch.topk(probabilities, router.top_k, dim=-1)
    if getattr(router, "norm_topk_prob", True):
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, ids


def _weights(place: Place, logits: torch.Tensor) -> torch.Tensor:
    return _chosen(place, logits)[0].to(logits.dtype)


def _weights_in_float32(place: Place, logits: torch.Tensor) -> torch.Tensor:
    return _chosen(place, logits)[0]


def _ids(place: Place, logits: torch.Tensor) -> torch.Tensor:
    return _chosen(place, logits)[1]


def _dispatched(
    place: Place, given: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    found: torch.Tensor = place.module(EXPERTS)(given, ids, weights)
    return found


def _as_it_is(_place: Place, given: torch.Tensor) -> torch.Tensor:
    return given


def _with_shared_expert(place: Place, routed: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    import torch

    shared = place.module(f"{BLOCK}.shared_expert")(given)
    share = torch.nn.functional.sigmoid(place.module(f"{BLOCK}.shared_expert_gate")(given))
    return routed + share * shared


_MOE = {
    **WAYS,
    "moe_router_logits": (Way(("ffn_norm",), operations.through),),
    "moe_router": (Way(("moe_router_logits",), _weights),),
    "moe_router_indices": (Way(("moe_router_logits",), _ids),),
    "moe_ffn_out": (Way(("ffn_norm", "moe_router_indices", "moe_router"), _dispatched),),
    "ffn_out": (Way(("ffn_swigl",), _down), Way(("moe_ffn_out",), _as_it_is)),
}


def _normed_whole(place: Place, norm: str, packed: torch.Tensor) -> torch.Tensor:
    """Norm across all heads, then split them: OLMoE norms what the projection gives."""
    normed = getattr(place.attention, norm)(packed[None])[0]
    return operations.heads(place, _clipped(place, normed))


def _clipped(place: Place, packed: torch.Tensor) -> torch.Tensor:
    limit = place.config.clip_qkv
    return packed if limit is None else packed.clamp(min=-limit, max=limit)


def _olmoe_query(place: Place, qkv: torch.Tensor) -> torch.Tensor:
    packed = operations.split_projections(place, qkv)[0]
    return operations.rotate(place, _normed_whole(place, "q_norm", packed))


def _olmoe_key(place: Place, qkv: torch.Tensor) -> torch.Tensor:
    packed = operations.split_projections(place, qkv)[1]
    return operations.rotate(place, _normed_whole(place, "k_norm", packed))


def _olmoe_values(place: Place, *past_and_qkv: torch.Tensor) -> torch.Tensor:
    *past, qkv = past_and_qkv
    return operations.value_cache(place, *past, _clipped(place, qkv))


OLMOE = Family(
    model_types=("olmoe",),
    taps=TAPS,
    ways={
        **_MOE,
        "q_post_rope": (Way((QKV,), _olmoe_query),),
        "k_post_rope": (Way((QKV,), _olmoe_key),),
        "v_cache": (Way((PAST_VALUES, QKV), _olmoe_values),),
    },
)
QWEN3_MOE = Family(model_types=("qwen3_moe",), taps=TAPS, ways=_MOE)
QWEN2_MOE = Family(
    model_types=("qwen2_moe",),
    taps=TAPS,
    ways={
        **_MOE,
        "ffn_out": (
            Way(("ffn_swigl",), _down),
            Way(("moe_ffn_out", "ffn_norm"), _with_shared_expert),
        ),
    },
)
MIXTRAL = Family(
    model_types=("mixtral",),
    taps=TAPS,
    ways={**_MOE, "moe_router": (Way(("moe_router_logits",), _weights_in_float32),)},
)
