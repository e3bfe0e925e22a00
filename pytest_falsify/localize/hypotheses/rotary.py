"""Faults of the rotary embedding.

The model's own rotation is asked for its cosines and sines, and for the heads as they are before
they turn; what a faulty rotation makes of them is computed here. A base, an offset or a scaling
that is in no list is measured (``localize.rotation``).
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.localize.fitting import Fitted
from pytest_falsify.localize.rotation import Rotation
from pytest_falsify.localize.trial import Hypothesis, altered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from pytest_falsify.localize.trial import Compute, Trial, Variants

    Tried = Callable[[Trial], Variants]

ROTATED = frozenset({"q_post_rope", "k_post_rope"})
BASES = (1e4, 1e5, 5e5, 1e6, 1e7)
LARGEST_BASE = 1e12
OFFSETS = (1, -1, 2)
FREQUENCIES = "inv_freq"

SCALINGS = (2.0, 4.0, 8.0)

Turned = tuple["torch.Tensor", "torch.Tensor"]


def _embedding(trial: Trial) -> Any:
    """Return the model's rotary embedding, or None: not every family rotates."""
    return getattr(getattr(trial.graph.model, "model", None), "rotary_emb", None)


def _where_it_turns(variants: Tried) -> Tried:
    """Return variants that are tried on models with a rotary embedding only."""

    def tried(trial: Trial) -> Variants:
        if _embedding(trial) is not None:
            yield from variants(trial)

    return tried


@contextmanager
def _rotary(trial: Trial, wrapped: Callable[[Any], Callable[..., Turned]]) -> Iterator[None]:
    """Let the model's rotary embedding answer otherwise for a while."""
    module = _embedding(trial)
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


def _angles(trial: Trial, positions: range | None = None) -> Turned:
    """Return the cosines and sines of the right rotation: (tokens, pairs).

    Args:
        trial: an operation that turns heads.
        positions: other positions than those of the step's tokens.
    """
    import torch

    seen: list[Turned] = []

    def heard(forward: Callable[..., Turned]) -> Callable[..., Turned]:
        def answered(given: Any, places: Any, *more: Any, **named: Any) -> Turned:
            asked = places if positions is None else places.new_tensor([list(positions)])
            seen.append(forward(given, asked, *more, **named))
            return forward(given, places, *more, **named)

        return answered

    with _rotary(trial, heard), torch.inference_mode():
        trial.evaluate()
    cos, sin = (each[0, :, : each.shape[-1] // 2] for each in seen[-1])
    return cos, sin


def _interleaved(trial: Trial) -> torch.Tensor:
    """Rotate neighbours instead of halves: the layout of GPT-J and of ggml's `NORM` models."""
    import torch

    cos, sin = (each[:, None] for each in _angles(trial))
    given = _without(trial)
    count = cos.shape[-1]
    even, odd = given[..., 0 : 2 * count : 2], given[..., 1 : 2 * count : 2]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([turned, given[..., 2 * count :]], dim=-1)


def _measured(trial: Trial) -> Rotation:
    """Return how the subject turned its heads; channels that no rotation turns do not count."""
    turn, two = _turns(trial), _turns(trial, range(2))
    channels = 2 * turn.shape[-1]
    before, after = (
        each[..., :channels].double().cpu().numpy()
        for each in (trial.shown(_without(trial)), trial.observed)
    )
    right = np.angle(two[1] / two[0])
    return Rotation.of(before, after, trial.shown(turn), right)


def _turns(trial: Trial, positions: range | None = None) -> np.ndarray[Any, Any]:
    """Return what the right rotation turns by, as complex numbers: (tokens, pairs)."""
    cos, sin = (each.double().cpu().numpy() for each in _angles(trial, positions))
    found: np.ndarray[Any, Any] = cos + 1j * sin
    return found


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


def _fitted_bases(trial: Trial) -> Variants:
    stated, fitted = _base(trial), _fitted_base(trial)
    if fitted is not None and fitted.plausible != stated:
        yield f"{stated:g} -> {fitted.told()}", _based(fitted.plausible)


def _fitted_base(trial: Trial) -> Fitted | None:
    """Return the base whose frequencies are nearest to those that the subject turned by."""
    power = _measured(trial).power()
    if power is None:
        return None
    one = math.log(_base(trial))
    if not 0 < power.value * one < math.log(LARGEST_BASE):
        return None
    value = math.exp(power.value * one)
    return Fitted(value=value, error=value * one * power.error)


def _fitted_positions(trial: Trial) -> Variants:
    offset = _measured(trial).offset()
    if offset:
        yield f"positions {offset:+d}", _shifted(offset)


def _fitted_scalings(trial: Trial) -> Variants:
    factor = _measured(trial).factor()
    if factor is not None and factor.plausible != 1:
        yield f"frequencies / {factor.told()}", _slowed(factor.plausible)


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
        module = _embedding(trial)
        power = math.log(base) / math.log(_base(trial))
        names = [name for name, _ in module.named_buffers() if name.endswith(FREQUENCIES)]
        changed = {name: getattr(module, name) ** power for name in names}
        with altered(module, **changed):
            return trial.evaluate()

    return based


def _scalings(_trial: Trial) -> Variants:
    for factor in SCALINGS:
        yield f"frequencies / {factor:g}", _slowed(factor)
        yield f"frequencies x {factor:g}", _slowed(1 / factor)


def _slowed(factor: float) -> Compute:
    def slowed(trial: Trial) -> torch.Tensor:
        module = _embedding(trial)
        names = [name for name, _ in module.named_buffers() if name.endswith(FREQUENCIES)]
        with altered(module, **{name: getattr(module, name) / factor for name in names}):
            return trial.evaluate()

    return slowed


_KNOWN: tuple[tuple[str, Tried], ...] = (
    ("rope layout", _halves),
    ("rope missing", _missing),
    ("rope direction", _twice),
    ("rope position", _positions),
    ("rope base", _bases),
    ("rope scaling", _scalings),
)
_FITTED: tuple[tuple[str, Tried], ...] = (
    ("rope position", _fitted_positions),
    ("rope base", _fitted_bases),
    ("rope scaling", _fitted_scalings),
)
ROTARY = tuple(
    Hypothesis(name=name, stages=ROTATED, variants=_where_it_turns(variants), fitted=fitted)
    for fitted, table in enumerate((_KNOWN, _FITTED))
    for name, variants in table
)
