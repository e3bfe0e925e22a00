"""What a model family is: where its stages are seen, and how each comes of the ones before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pytest_falsify.stages.vocabulary import STAGES, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_falsify.stages.vocabulary import Site

LAYER_INPUT = "layer input"
"""The residual stream that enters the layer: of the layer before, or the embedding."""
LAST_LAYER = "last layer"
"""The residual stream that leaves the last layer."""
QKV = "qkv"
"""The projections: ``qkv_bias``, or ``qkv_matmul`` where they have no bias."""
PAST_KEYS, PAST_VALUES = "past k_cache", "past v_cache"
"""The cache of the step before; nothing at the prefill."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A place where a stage can be observed: a module's input or its output.

    ``{i}`` in the module's name stands for the layer.

    Attributes:
        module: the module's name in the model.
        is_input: what it is called with, and not what it returns.
        item: which argument, or which element of a tuple that it returns.
        part: ``(n, of)``: the n-th of so many equal parts of the last axis.
        is_flat: one axis holds the tokens of all sequences of the batch.
        packs: what follows the axes of the batch and the tokens becomes one axis.
    """

    module: str
    is_input: bool = False
    item: int = 0
    part: tuple[int, int] | None = None
    is_flat: bool = False
    packs: bool = False

    def __str__(self) -> str:
        """Return the place as people read it: ``mlp.gate_up_proj, part 1 of 2``."""
        details = [
            *(["input"] if self.is_input else []),
            *([f"no. {self.item}"] if self.item else []),
            *([f"part {self.part[0] + 1} of {self.part[1]}"] if self.part else []),
        ]
        return ", ".join([self.module, *details])

    def pick(self, shown: Any, batch: int = 1) -> Any:
        """Return the stage's tensor, the batch's axis first.

        Args:
            shown: the module's arguments, or what it returned.
            batch: how many sequences it was given, for a tensor without that axis.
        """
        tensor = shown[self.item] if isinstance(shown, tuple) else shown
        tensor = tensor.unflatten(0, (batch, -1)) if self.is_flat else tensor
        tensor = tensor.flatten(2) if self.packs else tensor
        if self.part is None:
            return tensor
        place, count = self.part
        return tensor.chunk(count, dim=-1)[place]


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a stage comes of others.

    Attributes:
        inputs: the stages that it reads, of the same step and layer, or one of the names above.
        compute: takes a ``Place`` and a tensor for each input; returns the stage's tensor.
    """

    inputs: tuple[str, ...]
    compute: Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A model family.

    Attributes:
        model_types: its names in transformers' configurations.
        taps: where each stage that one module shows is observed.
        ways: how each stage comes of others. The first way whose inputs the model has is its
            definition; the ways after it go around stages that are seldom captured.
        attention: the module that attends.
        projections: the modules whose outputs, side by side, are the queries, keys and values.
        excludes: settings of the configuration which, when they are on, make the models compute
            in a way that is not described here.
    """

    model_types: tuple[str, ...]
    taps: Mapping[str, Tap]
    ways: Mapping[str, tuple[Way, ...]]
    attention: str = "model.layers.{i}.self_attn"
    projections: tuple[str, ...] = (
        "model.layers.{i}.self_attn.q_proj",
        "model.layers.{i}.self_attn.k_proj",
        "model.layers.{i}.self_attn.v_proj",
    )
    excludes: tuple[str, ...] = ()

    def tap(self, site: Site) -> Tap | None:
        """Return where a site is observed, or None when no module shows it."""
        tap = self.taps.get(site.stage)
        if tap is None or STAGES[site.stage].scope is not Scope.LAYER:
            return tap
        return _of_layer(tap, site.layer)


@lru_cache(maxsize=4096)
def _of_layer(tap: Tap, layer: int | None) -> Tap:
    return replace(tap, module=tap.module.format(i=layer))
