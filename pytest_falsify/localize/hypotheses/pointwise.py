"""Faults of arithmetic without weights: activations, residuals, and plain factors and offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.localize.trial import Hypothesis

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from pytest_falsify.localize.trial import Trial, Variants

RESIDUALS = frozenset({"post_attn_residual", "post_ffn_residual"})
ACTIVATED = frozenset({"ffn_silu"})
GATED = frozenset({"ffn_swigl"})
ROUNDED = ("bfloat16", "float16", "float8_e4m3fn")


def _activations(_trial: Trial) -> Variants:
    import torch
    from torch.nn import functional

    known: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "gelu": functional.gelu,
        "gelu (tanh)": lambda given: functional.gelu(given, approximate="tanh"),
        "silu": functional.silu,
        "relu": functional.relu,
        "relu squared": lambda given: functional.relu(given) ** 2,
        "quick gelu": lambda given: given * torch.sigmoid(1.702 * given),
        "sigmoid": torch.sigmoid,
        "none": lambda given: given,
    }
    for name, function in known.items():
        yield name, _on_input(function)


def _on_input(
    function: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[Trial], torch.Tensor]:
    return lambda trial: function(trial.ordered[0])


def _residuals(trial: Trial) -> Variants:
    names = [each.stage for each in trial.graph.inputs(trial.site)]
    for index, name in enumerate(names):
        yield f"{name} left out", _without(index)
        yield f"{name} twice", _twice(index)


def _without(index: int) -> Callable[[Trial], torch.Tensor]:
    def computed(trial: Trial) -> torch.Tensor:
        values = list(trial.ordered)
        values[index] = values[index] * 0
        return trial.with_inputs(*values).evaluate()

    return computed


def _twice(index: int) -> Callable[[Trial], torch.Tensor]:
    def computed(trial: Trial) -> torch.Tensor:
        values = list(trial.ordered)
        values[index] = values[index] * 2
        return trial.with_inputs(*values).evaluate()

    return computed


def _gates(trial: Trial) -> Variants:
    for index, each in enumerate(trial.graph.inputs(trial.site)):
        yield f"{each.stage} left out", _only(1 - index)


def _only(index: int) -> Callable[[Trial], torch.Tensor]:
    return lambda trial: trial.ordered[index]


def _precisions(_trial: Trial) -> Variants:
    import torch

    for name in ROUNDED:
        dtype = getattr(torch, name)
        yield name, _to(dtype)


def _to(dtype: torch.dtype) -> Callable[[Trial], torch.Tensor]:
    def computed(trial: Trial) -> torch.Tensor:
        found = trial.expected
        return found.to(dtype).to(found.dtype)

    return computed


def _scales(trial: Trial) -> Variants:
    """Yield the factor that fits best, by least squares: a = <x, y> / <x, x>."""
    x, y = trial.shown(trial.expected).double(), trial.observed.double()
    factor = float((x * y).sum() / (x * x).sum())
    yield f"x {factor:.6g}", lambda other: other.expected * factor


def _offsets(trial: Trial) -> Variants:
    """Yield the offset that fits best."""
    shift = float((trial.observed.double() - trial.shown(trial.expected).double()).mean())
    yield f"{shift:+.6g}", lambda other: other.expected + shift


def _lines(trial: Trial) -> Variants:
    """Yield the factor and the offset that fit best together."""
    x, y = trial.shown(trial.expected).double(), trial.observed.double()
    spread = float(((x - x.mean()) ** 2).sum())
    if spread == 0:
        return
    factor = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    shift = float(y.mean() - factor * x.mean())
    yield f"x {factor:.6g} {shift:+.6g}", lambda other: other.expected * factor + shift


POINTWISE = (
    Hypothesis(name="activation", stages=ACTIVATED, variants=_activations),
    Hypothesis(name="residual", stages=RESIDUALS, variants=_residuals),
    Hypothesis(name="gate", stages=GATED, variants=_gates),
    Hypothesis(name="rounded result", stages=frozenset(), variants=_precisions),
)
FITTED = (
    Hypothesis(name="scale", stages=frozenset(), variants=_scales, fitted=1),
    Hypothesis(name="offset", stages=frozenset(), variants=_offsets, fitted=1),
    Hypothesis(name="scale and offset", stages=frozenset(), variants=_lines, fitted=2),
)
