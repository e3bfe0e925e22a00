"""Faults of the rotary embedding.

The model's own rotation is asked for its cosines and sines, and for the heads as they are before
they turn; what a faulty rotation makes of them is computed here.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_falsify.localize.trial import Hypothesis, altered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from pytest_falsify.localize.trial import Compute, Trial, Variants

ROTATED = frozenset({"q_post_rope", "k_post_rope"})
BASES = (1e4, 1e5, 5e5, 1e6, 1e7)
OFFSETS = (1, -1, 2)
FREQUENCIES = "inv_freq"

Turned = tuple["torch.Tensor", "torch.Tensor"]


@contextmanager
def _rotary(trial: Trial, wrapped: Callable[[Any], Callable[..., Turned]]) -> Iterator[None]:
    """Let the model's rotary embedding answer otherwise for a while."""
    module = trial.graph.model.model.rotary_emb
    with altered(module, forward=wrapped(module.forward)):
        yield


def _without(trial: Trial) -> torch.Tensor:
    """Return the heads before they are rotated."""
    import torch

    def still(forward: Callable[..., Turned]) -> Callable[..., Turned]:
        def answered(*given: Any, **more: Any) -> Turned:
            cos, sin = forward(*given, **more)
            return torch.ones_like(cos), torch.zeros_like(sin)

        return answered

    with _rotary(trial, still):
        return trial.evaluate()


def _interleaved(trial: Trial) -> torch.Tensor:
    """Rotate neighbours instead of halves: the layout of GPT-J and of ggml's `NORM` models."""
    import torch

    seen: list[Turned] = []

    def heard(forward: Callable[..., Turned]) -> Callable[..., Turned]:
        def answered(*given: Any, **more: Any) -> Turned:
            seen.append(forward(*given, **more))
            return seen[-1]

        return answered

    with _rotary(trial, heard):
        trial.evaluate()
    given = _without(trial)
    cos, sin = (each.reshape(len(given), 1, -1) for each in seen[-1])
    count = cos.shape[-1] // 2
    cos, sin = cos[..., :count], sin[..., :count]
    even, odd = given[..., 0 : 2 * count : 2], given[..., 1 : 2 * count : 2]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([turned, given[..., 2 * count :]], dim=-1)


def _halves(_trial: Trial) -> Variants:
    yield "half -> interleaved", _interleaved


def _missing(_trial: Trial) -> Variants:
    yield "not applied", _without


def _twice(_trial: Trial) -> Variants:
    yield "backwards", lambda trial: _answering(trial, lambda cos, sin: (cos, -sin))


def _answering(trial: Trial, change: Callable[..., Turned]) -> torch.Tensor:
    def changed(forward: Callable[..., Turned]) -> Callable[..., Turned]:
        return lambda *given, **more: change(*forward(*given, **more))

    with _rotary(trial, changed):
        return trial.evaluate()


def _positions(_trial: Trial) -> Variants:
    for offset in OFFSETS:
        yield f"positions {offset:+d}", _shifted(offset)


def _shifted(offset: int) -> Compute:
    def shifted(trial: Trial) -> torch.Tensor:
        def moved(forward: Callable[..., Turned]) -> Callable[..., Turned]:
            return lambda given, positions, *more, **named: forward(
                given, positions + offset, *more, **named
            )

        with _rotary(trial, moved):
            return trial.evaluate()

    return shifted


def _bases(trial: Trial) -> Variants:
    stated = _base(trial)
    for base in dict.fromkeys((*BASES, stated * 10, stated / 10)):
        if base != stated:
            yield f"{stated:g} -> {base:g}", _based(base)


def _base(trial: Trial) -> float:
    """Return the base of the site's layer: some families have one for each kind of layer."""
    config = trial.graph.model.config
    parameters = getattr(config, "rope_parameters", None) or {}
    if "rope_theta" not in parameters and trial.site.layer is not None:
        kinds = getattr(config, "layer_types", None) or ()
        parameters = parameters.get(kinds[trial.site.layer], {}) if kinds else {}
    return float(parameters.get("rope_theta", BASES[0]))


def _based(base: float) -> Compute:
    """Return the rotation with frequencies base^(-2i/d) (Su et al., RoFormer, 2021)."""

    def based(trial: Trial) -> torch.Tensor:
        module = trial.graph.model.model.rotary_emb
        power = math.log(base) / math.log(_base(trial))
        names = [name for name, _ in module.named_buffers() if name.endswith(FREQUENCIES)]
        changed = {name: getattr(module, name) ** power for name in names}
        with altered(module, **changed):
            return trial.evaluate()

    return based


def _scalings(_trial: Trial) -> Variants:
    for factor in (2.0, 4.0, 8.0):
        yield f"frequencies / {factor:g}", _slowed(factor)
        yield f"frequencies x {factor:g}", _slowed(1 / factor)


def _slowed(factor: float) -> Compute:
    def slowed(trial: Trial) -> torch.Tensor:
        module = trial.graph.model.model.rotary_emb
        names = [name for name, _ in module.named_buffers() if name.endswith(FREQUENCIES)]
        with altered(module, **{name: getattr(module, name) / factor for name in names}):
            return trial.evaluate()

    return slowed


ROTARY = (
    Hypothesis(name="rope layout", stages=ROTATED, variants=_halves),
    Hypothesis(name="rope missing", stages=ROTATED, variants=_missing),
    Hypothesis(name="rope direction", stages=ROTATED, variants=_twice),
    Hypothesis(name="rope position", stages=ROTATED, variants=_positions),
    Hypothesis(name="rope base", stages=ROTATED, variants=_bases),
    Hypothesis(name="rope scaling", stages=ROTATED, variants=_scalings),
)
