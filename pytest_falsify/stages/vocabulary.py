"""The canonical stages, in execution order, and the sites they are observed at."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import Enum

from pytest_falsify.errors import FalsifyError


class Scope(Enum):
    """Where in the forward pass a stage stands."""

    BEFORE = 0  # once, before the first layer
    LAYER = 1  # once per layer
    AFTER = 2  # once, after the last layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One canonical stage.

    Attributes:
        dims: the axes of its tensor: t tokens, h heads, k key/value heads, d channels,
            s source tokens, v vocabulary, e experts.
        is_index: its values are ids, judged by equality and never by a cosine.
    """

    name: str
    scope: Scope
    dims: str
    is_index: bool = False


_LAYER_STAGES = {
    "attn_norm": "t d",
    "qkv_matmul": "t d",
    "qkv_bias": "t d",
    "q_post_rope": "t h d",
    "k_post_rope": "t k d",
    "k_cache": "t k d",
    "v_cache": "t k d",
    "attn_scores": "h t s",
    "attn_softmax": "h t s",
    "attention": "t d",
    "attn_out": "t d",
    "attn_post_norm": "t d",
    "post_attn_residual": "t d",
    "ffn_norm": "t d",
    "ffn_gate": "t d",
    "ffn_up": "t d",
    "ffn_silu": "t d",
    "ffn_swigl": "t d",
    "moe_router_logits": "t e",
    "moe_router": "t e",
    "moe_router_indices": "t e",
    "moe_ffn_out": "t d",
    "ffn_out": "t d",
    "ffn_post_norm": "t d",
    "post_ffn_residual": "t d",
}

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(name="embedding", scope=Scope.BEFORE, dims="t d"),
        *(
            Stage(name=name, scope=Scope.LAYER, dims=dims, is_index=name == "moe_router_indices")
            for name, dims in _LAYER_STAGES.items()
        ),
        Stage(name="final_norm", scope=Scope.AFTER, dims="t d"),
        Stage(name="lm_head", scope=Scope.AFTER, dims="t v"),
    )
}

ALIASES = {"layer_output": "post_ffn_residual"}

_ORDER = {name: position for position, name in enumerate(STAGES)}

TRANSFER = -1
"""The step between prefill and decode: the cache as it arrived where the decode steps run."""
_STEPS = {"transfer": TRANSFER}
_WORDS = {step: word for word, step in _STEPS.items()}


def canonical(name: str) -> str:
    """Return the canonical name of a stage: trimmed, lower case, aliases resolved.

    Raises:
        FalsifyError: when there is no such stage.
    """
    wanted = name.strip().lower()
    wanted = ALIASES.get(wanted, wanted)
    if wanted in STAGES:
        return wanted
    close = difflib.get_close_matches(wanted, [*STAGES, *ALIASES], n=1)
    msg = f"unknown stage `{name}`"
    raise FalsifyError(
        msg,
        expected=f"one of {', '.join(STAGES)}",
        remedy=f"did you mean `{close[0]}`?" if close else None,
    )


@dataclass(frozen=True, slots=True)
class Site:
    """A stage at a step and a layer: 0 is prefill, n the nth decode step, or ``TRANSFER``.

    ``layer`` is None for the stages that stand before or after all layers.
    """

    step: int
    layer: int | None
    stage: str

    def __str__(self) -> str:
        layer = "-" if self.layer is None else self.layer
        return f"{_WORDS.get(self.step, self.step)}/{layer}/{self.stage}"

    @property
    def causal_key(self) -> tuple[int, int, int, int]:
        """The key that sorts sites in the order in which the forward pass reaches them."""
        stage = STAGES[self.stage]
        step = 1 if self.step == TRANSFER else 2 * self.step
        return step, stage.scope.value, self.layer or 0, _ORDER[self.stage]

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read the spelling that ``str`` writes.

        Raises:
            FalsifyError: when it is not ``step/layer/stage``.
        """
        parts = text.split("/")
        is_site = (
            len(parts) == 3  # noqa: PLR2004
            and (parts[0].isdigit() or parts[0] in _STEPS)
            and (parts[1] == "-" or parts[1].isdigit())
        )
        if not is_site:
            msg = f"`{text}` is not a site"
            raise FalsifyError(msg, expected="step/layer/stage, for example 0/3/attn_out")
        step = _STEPS[parts[0]] if parts[0] in _STEPS else int(parts[0])
        layer = None if parts[1] == "-" else int(parts[1])
        return cls(step, layer, canonical(parts[2]))
