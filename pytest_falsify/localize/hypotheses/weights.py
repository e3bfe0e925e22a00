"""Faults of what an operation holds: its weights, its bias, its epsilon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.localize.epsilon import measured_epsilon
from pytest_falsify.localize.trial import Hypothesis, altered, with_weights
from pytest_falsify.stages.rounded import SCHEMES, rounded
from pytest_falsify.stages.vocabulary import Site

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from pytest_falsify.localize.trial import Compute, Trial, Variants

NORMS = frozenset({"attn_norm", "attn_post_norm", "ffn_norm", "ffn_post_norm", "final_norm"})
PROJECTIONS = frozenset({"qkv_matmul", "qkv_bias"})
LINEAR = PROJECTIONS | {"attn_out", "ffn_gate", "ffn_up", "ffn_out", "lm_head"}
WEIGHTED = LINEAR | NORMS | {"embedding"}
EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-12, 0.0)
EPSILON_NAMES = ("variance_epsilon", "eps")
MOST_LAYERS = 8
"""How many other layers' weights are tried, nearest first."""


def _weight(change: Callable[[torch.Tensor], torch.Tensor]) -> Compute:
    def computed(trial: Trial) -> torch.Tensor:
        with with_weights(trial.modules, _in_its_rows(trial, change)):
            return trial.evaluate()

    return computed


def _in_its_rows(
    trial: Trial, change: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a change of the rows that make the stage, where a weight makes more than one."""
    tap = trial.graph.family.tap(trial.site)
    if tap is None or tap.part is None:
        return change
    place, count = tap.part

    def changed(weight: torch.Tensor) -> torch.Tensor:
        import torch

        parts = list(weight.chunk(count))
        parts[place] = change(parts[place])
        return torch.cat(parts)

    return changed


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
        of_nothing = trial.with_inputs(*(each * 0 for each in trial.ordered)).evaluate()
    return ones if bool((noughts == of_nothing).all()) else noughts


def _epsilons(trial: Trial) -> Variants:
    stated = _epsilon(trial)
    for value in EPSILONS:
        if stated is not None and value != stated[1]:
            yield f"{stated[1]:g} -> {value:g}", _with_epsilon(stated[0], value)


def _fitted_epsilons(trial: Trial) -> Variants:
    stated = _epsilon(trial)
    fitted = None if stated is None else measured_epsilon(*_rows(trial), stated[1])
    if stated is not None and fitted is not None and stated[1] != fitted.plausible >= 0:
        yield f"{stated[1]:g} -> {fitted.told()}", _with_epsilon(stated[0], fitted.plausible)


def _rows(trial: Trial) -> tuple[Any, Any, Any]:
    """Return the mean square of each row that is normed, and the two results without a bias."""
    (given,) = trial.ordered
    centred = given - given.mean(-1, keepdim=True) if _is_centred(trial) else given
    bias = getattr(trial.modules[0], "bias", None)
    right, found = (
        each if bias is None else each - bias.detach()
        for each in (trial.shown(trial.expected), trial.observed)
    )
    powers = trial.shown(centred.double().square().mean(-1, keepdim=True))[..., 0]
    return tuple(each.double().cpu().numpy() for each in (powers, right, found))


def _is_centred(trial: Trial) -> bool:
    """Tell whether the norm takes the mean away: LayerNorm, not its root-mean-square cousins."""
    import torch

    return isinstance(trial.modules[0], torch.nn.LayerNorm)


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


def _means(trial: Trial) -> Variants:
    if _is_centred(trial):
        yield "mean not subtracted", _uncentred
        return
    yield (
        "mean subtracted",
        lambda trial: trial.with_inputs(
            *(each - each.mean(-1, keepdim=True) for each in trial.ordered)
        ).evaluate(),
    )


def _uncentred(trial: Trial) -> torch.Tensor:
    """Return what a root-mean-square norm makes with the weights of a LayerNorm."""
    import torch

    norm, (given,) = trial.modules[0], trial.ordered
    shape = norm.normalized_shape
    found = torch.nn.functional.rms_norm(given, shape, norm.weight, norm.eps)
    return found if norm.bias is None else found + norm.bias


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
    Hypothesis(name="norm epsilon", stages=NORMS, variants=_fitted_epsilons, fitted=1),
    Hypothesis(name="norm kind", stages=NORMS, variants=_means),
    Hypothesis(name="rounded weights", stages=WEIGHTED, variants=_roundings),
)
