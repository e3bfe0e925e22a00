"""The canonical stages, in execution order, and the sites they are observed at."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pytest_falsify.errors import FalsifyError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Scope(Enum):
    """Where in the forward pass a stage stands."""

    BEFORE = 0  # once, before the first layer
    LAYER = 1  # once per layer
    INSIDE = 2  # a module of a model whose layers are not known
    AFTER = 3  # once, after the last layer


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

MODULE = "module:"
"""What the name of a stage begins with that is the output of a module: ``module:model.layers.0``.

Models of unknown families have such stages. They belong to no layer, and nothing but the model
itself knows their order: whoever lists them lists them in the order in which the modules end.
"""


class _Stages(dict[str, Stage]):
    """The canonical stages by name, in execution order. A module's stage is found, never listed."""

    def __missing__(self, name: str) -> Stage:
        if not is_module(name):
            raise KeyError(name)
        return Stage(name=name, scope=Scope.INSIDE, dims="t d")


STAGES: dict[str, Stage] = _Stages(
    (stage.name, stage)
    for stage in (
        Stage(name="embedding", scope=Scope.BEFORE, dims="t d"),
        *(
            Stage(name=name, scope=Scope.LAYER, dims=dims, is_index=name == "moe_router_indices")
            for name, dims in _LAYER_STAGES.items()
        ),
        Stage(name="final_norm", scope=Scope.AFTER, dims="t d"),
        Stage(name="lm_head", scope=Scope.AFTER, dims="t v"),
    )
)

ALIASES = {"layer_output": "post_ffn_residual"}

_PLACES = {name: (stage.scope.value, order) for order, (name, stage) in enumerate(STAGES.items())}

TRANSFER = -1
"""The step between prefill and decode: the cache as it arrived where the decode steps run."""
_STEPS = {"transfer": TRANSFER}
_WORDS = {step: word for word, step in _STEPS.items()}


def is_module(name: str) -> bool:
    """Tell whether a stage's name is that of a module."""
    return name.startswith(MODULE) and len(name) > len(MODULE) and "/" not in name


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return stages each once: the canonical ones in execution order, modules as they are given.

    What a model does after all of its modules, ``final_norm`` and ``lm_head``, comes after them.
    """
    return tuple(sorted(dict.fromkeys(names), key=lambda name: _key(name, 0)))


def _key(name: str, layer: int) -> tuple[int, int, int]:
    scope, order = _PLACES.get(name) or (STAGES[name].scope.value, 0)
    return scope, layer, order


def canonical(name: str) -> str:
    """Return the canonical name of a stage: trimmed, lower case, aliases resolved.

    The name of a module keeps its case.

    Raises:
        FalsifyError: when there is no such stage.
    """
    if is_module(name.strip()):
        return name.strip()
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
        step = 1 if self.step == TRANSFER else 2 * self.step
        return step, *_key(self.stage, self.layer or 0)

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
