"""What lies inside attention: seen through an attention function that calls the model's own.

transformers lets a model choose its attention function by name. Ours are called ``falsify_<name>``;
each hands everything to the function that the model would have called, so the answer keeps its
bits, and then shows what it was given and what came back; scores are shown on the way. A name needs
an entry in ``AttentionMaskInterface`` too, or the causal mask is silently left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol

from pytest_falsify.stages.operations import usual_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

ALWAYS = ("q_post_rope", "k_post_rope")
ON_REQUEST = ("k_cache", "v_cache")
SCORES = "attn_scores"
EAGER_ONLY = (SCORES, "attn_softmax")
STAGES_INSIDE = frozenset((*ALWAYS, *ON_REQUEST, *EAGER_ONLY))
PREFIX = "falsify_"


class Inside(Protocol):
    """What is told what one layer's attention saw."""

    def __call__(self, layer: int, stage: str, tensor: torch.Tensor, /) -> None:
        """Take one tensor of the whole batch: its axis, then the dims of the stage."""


Wanted = Mapping[int, Sequence[str]]
_watcher: ContextVar[tuple[Wanted, Inside]] = ContextVar(
    "falsify", default=({}, lambda _layer, _stage, _tensor: None)
)


@contextmanager
def watched(model: Any, wanted: Wanted, inside: Inside) -> Iterator[None]:
    """Show stages inside attention while a model runs, and leave the model as it was.

    Args:
        model: a model of transformers.
        wanted: the stages to show, by layer.
        inside: what is told.
    """
    if not wanted:
        yield
        return
    with attending(model, PREFIX, _attend):
        token = _watcher.set((wanted, inside))
        try:
            yield
        finally:
            _watcher.reset(token)


@contextmanager
def attending(model: Any, prefix: str, attend: Callable[..., Any]) -> Iterator[None]:
    """Let a function of ours be a model's attention, and leave the model as it was.

    Args:
        model: a model of transformers.
        prefix: before the name of the model's own function, it is the name of ours.
        attend: is given that name, and then what the model's own function is given.
    """
    usual = model.config._attn_implementation  # noqa: SLF001 - transformers has no other name for it
    _register(prefix, usual, attend)
    model.set_attn_implementation(prefix + usual)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


@cache
def _register(prefix: str, name: str, attend: Callable[..., Any]) -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    AttentionInterface.register(prefix + name, partial(attend, name))
    AttentionMaskInterface.register(prefix + name, ALL_MASK_ATTENTION_FUNCTIONS[name])


def _attend(  # noqa: PLR0917 - transformers calls it so
    name: str,
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Call the model's own attention, then show what it saw.

    Args:
        name: which attention.
        module: the attention module.
        query: after rotary embedding, (batch, heads, tokens, channels).
        key: the same with the cache before it, (batch, key heads, sources, channels).
        value: like ``key``.
        attention_mask: what the model made of its mask, or None.
        options: ``scaling``, ``dropout``, ``softcap`` and what else the model passes.
    """
    attend = usual_attention(name, module)
    wanted, inside = _watcher.get()
    stages, show = wanted.get(module.layer_idx, ()), partial(inside, module.layer_idx)
    seeing = _seeing if SCORES in stages else _unseen
    with seeing(query, key, attention_mask, show) as mask:
        output, weights = attend(module, query, key, value, mask, **options)
    for stage in stages:
        if stage != SCORES:
            show(stage, _SHOWN[stage](query, key, value, weights))
    return output, weights


def _seeing(query: Any, key: Any, mask: Any, show: Callable[[str, Any], None]) -> Any:
    from pytest_falsify.engines.scores import seen_scores

    return seen_scores(query, key, mask, partial(show, SCORES))


def _unseen(_query: Any, _key: Any, mask: Any, _show: Any) -> Any:
    return nullcontext(mask)


_SHOWN: dict[str, Any] = {
    "q_post_rope": lambda q, _k, _v, _w: q.transpose(1, 2),
    "k_post_rope": lambda q, k, _v, _w: k[:, :, -q.shape[2] :].transpose(1, 2),
    "k_cache": lambda _q, k, _v, _w: k.transpose(1, 2),
    "v_cache": lambda _q, _k, v, _w: v.transpose(1, 2),
    "attn_softmax": lambda _q, _k, _v, w: w,
}
