"""Faults of what an operation holds: its weights, its bias, its epsilon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.localize.trial import Hypothesis, altered, with_weights
from pytest_falsify.stages.rounded import SCHEMES, rounded
from pytest_falsify.stages.vocabulary import Site

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from pytest_falsify.localize.trial import Compute, Trial, Variants

NORMS = frozenset({"attn_norm", "ffn_norm", "final_norm"})
PROJECTIONS = frozenset({"qkv_matmul", "qkv_bias"})
LINEAR = PROJECTIONS | {"attn_out", "ffn_gate", "ffn_up", "ffn_out", "lm_head"}
WEIGHTED = LINEAR | NORMS | {"embedding"}
EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-12, 0.0)
EPSILON_NAMES = ("variance_epsilon", "eps")
MOST_LAYERS = 8
"""How many other layers' weights are tried, nearest first."""


def _weight(change: Callable[[torch.Tensor], torch.Tensor]) -> Compute:
    def computed(trial: Trial) -> torch.Tensor:
        with with_weights(trial.modules, change):
            return trial.evaluate()

    return computed


def _layers(trial: Trial) -> Variants:
    own = trial.site.layer
    if own is None:
        return
    others = sorted(range(trial.graph.layer_count), key=lambda each: (abs(each - own), each))
    for layer in others[1 : 1 + MOST_LAYERS]:
        site = Site(trial.site.step, layer, trial.site.stage)
        if trial.graph.has(site):
            yield f"layer {own} -> {layer}", _elsewhere(site)


def _elsewhere(site: Site) -> Compute:
    return lambda trial: trial.elsewhere(site)


def _norm_weights(_trial: Trial) -> Variants:
    yield "w -> 1+w", _weight(lambda weight: weight + 1)
    yield "1+w -> w", _weight(lambda weight: weight - 1)


def _no_weight(_trial: Trial) -> Variants:
    yield "missing", _unweighted


def _unweighted(trial: Trial) -> torch.Tensor:
    """Return the norm without its weight, which some families store less one."""
    with with_weights(trial.modules, lambda weight: weight * 0 + 1):
        ones = trial.evaluate()
    with with_weights(trial.modules, lambda weight: weight * 0):
        noughts = trial.evaluate()
    return noughts if bool(noughts.any()) else ones


def _epsilons(trial: Trial) -> Variants:
    stated = _epsilon(trial)
    for value in EPSILONS:
        if stated is not None and value != stated[1]:
            yield f"{stated[1]:g} -> {value:g}", _with_epsilon(stated[0], value)


def _epsilon(trial: Trial) -> tuple[str, float] | None:
    for module in trial.modules:
        for name in EPSILON_NAMES:
            if isinstance(getattr(module, name, None), float):
                return name, getattr(module, name)
    return None


def _with_epsilon(name: str, value: float) -> Compute:
    def computed(trial: Trial) -> torch.Tensor:
        with altered(trial.modules[0], **{name: value}):
            return trial.evaluate()

    return computed


def _means(_trial: Trial) -> Variants:
    yield (
        "mean subtracted",
        lambda trial: trial.with_inputs(
            *(each - each.mean(-1, keepdim=True) for each in trial.ordered)
        ).evaluate(),
    )


def _biases(trial: Trial) -> Variants:
    if any(getattr(each, "bias", None) is not None for each in trial.modules):
        yield "missing", _unbiased


def _unbiased(trial: Trial) -> torch.Tensor:
    modules = tuple(each for each in trial.modules if getattr(each, "bias", None) is not None)
    with with_weights(modules, lambda bias: bias * 0, "bias"):
        return trial.evaluate()


def _roundings(_trial: Trial) -> Variants:
    for scheme in SCHEMES:
        yield scheme, _weight(_to(scheme))


def _to(scheme: str) -> Callable[[Any], Any]:
    return lambda weight: rounded(weight, scheme)


def _transposed(trial: Trial) -> Variants:
    if all(each.weight.dim() > 1 for each in trial.modules):
        yield (
            "[in, out] read as [out, in]",
            _weight(lambda weight: weight.T.contiguous().view(weight.shape)),
        )


WEIGHTS = (
    Hypothesis(name="missing bias", stages=LINEAR, variants=_biases),
    Hypothesis(name="wrong layer", stages=WEIGHTED, variants=_layers),
    Hypothesis(name="transposed weight", stages=LINEAR, variants=_transposed),
    Hypothesis(name="norm weight", stages=NORMS, variants=_norm_weights),
    Hypothesis(name="norm without weight", stages=NORMS, variants=_no_weight),
    Hypothesis(name="norm epsilon", stages=NORMS, variants=_epsilons),
    Hypothesis(name="norm kind", stages=NORMS, variants=_means),
    Hypothesis(name="rounded weights", stages=WEIGHTED, variants=_roundings),
)
