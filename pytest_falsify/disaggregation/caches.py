"""Caches of transformers as plain tensors, and back: dynamic, static, with and without a window.

What a worker sends is what the next token may look at: of a layer with a window of w the last
w - 1 tokens, of any other layer all. A static cache holds more slots than that; the others are not
sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

DYNAMIC, STATIC = "dynamic", "static"
KEYS, VALUES = "k", "v"
KINDS = {KEYS: "k_cache", VALUES: "v_cache"}
"""The stage that shows each half of a cache."""
POISON: dict[str, Any] = {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}
"""JSON Schema of what may fill the slots that hold no token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCache:
    """What one layer remembers of one sequence.

    Attributes:
        keys: (key heads, tokens, channels), after rotary embedding.
        values: (key heads, tokens, channels).
        length: how many tokens were seen; those that are kept are the last.
    """

    keys: torch.Tensor
    values: torch.Tensor
    length: int

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions of the tokens that are kept."""
        return tuple(range(self.length - self.keys.shape[1], self.length))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """How a worker keeps its cache.

    Attributes:
        kind: ``DYNAMIC``, which grows, or ``STATIC``, whose slots are there from the beginning.
        spare: how many slots a static cache has beyond those that are needed.
        poison: what fills the slots of a received static cache that hold no token; a number
            or its name.
    """

    kind: str = DYNAMIC
    spare: int = 0
    poison: float | str = 0.0

    def empty(self, config: Any, *, tokens: int) -> Any:
        """Return an empty cache of transformers for a sequence of so many tokens."""
        from transformers import DynamicCache, StaticCache

        if self.kind == DYNAMIC:
            return DynamicCache(config=config)
        return StaticCache(config=config, max_cache_len=tokens + self.spare)


def extracted(cache: Any, windows: Sequence[int | None], *, length: int) -> tuple[LayerCache, ...]:
    """Return what a cache of transformers holds of its one sequence, layer by layer.

    Args:
        cache: after a prefill.
        windows: of each layer: see ``windows_of``.
        length: how many tokens it has seen.
    """
    pairs = zip(cache.layers, windows, strict=True)
    return tuple(layer_extracted(layer, window, length=length) for layer, window in pairs)


def layer_extracted(layer: Any, window: int | None, *, length: int) -> LayerCache:
    """Return what one layer's cache holds: see ``extracted``."""
    kept = length if window is None else min(length, window - 1)
    end = min(length, layer.keys.shape[-2])
    keys, values = (each[0, :, end - kept : end] for each in (layer.keys, layer.values))
    return LayerCache(keys=keys, values=values, length=length)


def windows_of(config: Any) -> tuple[int | None, ...]:
    """Return the window of each layer of a model; None where it looks at all tokens.

    A static layer does not tell: it has no more slots than were asked for.

    Raises:
        CaptureError: when the cache of a layer is of a kind that is not known.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    layers = DynamicCache(config=config).layers
    for each in layers:
        if not isinstance(each, DynamicLayer):
            msg = f"the cache of a layer is a {type(each).__name__}"
            raise CaptureError(msg, expected="a cache of keys and values")
    return tuple(getattr(each, "sliding_window", None) for each in layers)


def installed(
    layers: Sequence[LayerCache],
    memory: Memory,
    config: Any,
    *,
    tokens: int,
    place: Callable[[torch.Tensor], torch.Tensor],
) -> Any:
    """Return a cache of transformers that holds what was received.

    Args:
        layers: what was received.
        memory: how it is kept.
        config: the model's.
        tokens: how many tokens it has to hold in the end.
        place: brings a tensor to the worker's device and dtype.
    """
    cache = memory.empty(config, tokens=tokens)
    for received, layer in zip(layers, cache.layers, strict=True):
        keys, values = (place(each)[None] for each in (received.keys, received.values))
        if memory.kind == STATIC:
            _fill_static(layer, keys, values, length=received.length, poison=float(memory.poison))
        else:
            _fill_dynamic(layer, keys, values, length=received.length)
    return cache


def _fill_dynamic(layer: Any, keys: torch.Tensor, values: torch.Tensor, *, length: int) -> None:
    layer.update(keys, values)
    if layer.is_sliding:
        layer.cumulative_length = length


def _fill_static(
    layer: Any, keys: torch.Tensor, values: torch.Tensor, *, length: int, poison: float
) -> None:
    layer.lazy_initialization(keys, values)
    end = min(length, layer.keys.shape[-2])
    start = end - keys.shape[-2]
    for slots, received in ((layer.keys, keys), (layer.values, values)):
        slots.fill_(poison)
        slots[:, :, start:end] = received
    if layer.is_sliding:
        layer.cumulative_length_int = length
    layer.cumulative_length.fill_(end)
