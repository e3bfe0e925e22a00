"""Faults of mixtures of experts: how a router weighs, whom it names, and who is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.localize.trial import Hypothesis

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from pytest_falsify.localize.trial import Compute, Trial, Variants

WEIGHTS = frozenset({"moe_router"})
IDS = frozenset({"moe_router_indices"})
MIXED = frozenset({"moe_ffn_out"})


def _weighings(_trial: Trial) -> Variants:
    import torch

    softmax = torch.nn.functional.softmax
    yield "not renormalised", _chosen(lambda logits: softmax(logits, dim=-1), is_whole=False)
    yield "renormalised", _chosen(lambda logits: softmax(logits, dim=-1), is_whole=True)
    yield "sigmoid", _chosen(torch.sigmoid, is_whole=False)
    yield "sigmoid, renormalised", _chosen(torch.sigmoid, is_whole=True)


def _chosen(score: Callable[[torch.Tensor], torch.Tensor], *, is_whole: bool) -> Compute:
    """Return the largest scores of each token; ``is_whole``: divided by their sum."""

    def weighed(trial: Trial) -> torch.Tensor:
        right = trial.expected
        found = score(trial.ordered[0].float()).topk(right.shape[-1], dim=-1).values
        return (found / found.sum(-1, keepdim=True) if is_whole else found).to(right.dtype)

    return weighed


def _namings(trial: Trial) -> Variants:
    count = trial.ordered[0].shape[-1]
    for offset in (1, -1):
        yield f"{offset:+d}", _named(offset, count)
    yield "the smallest logits", lambda other: other.with_inputs(-other.ordered[0]).evaluate()


def _named(offset: int, count: int) -> Compute:
    return lambda trial: (trial.expected + offset) % count


def _mixings(trial: Trial) -> Variants:
    most = trial.ordered[2].shape[-1]
    yield "weights left out", lambda other: _weighted(other, lambda each: each * 0 + 1)
    yield "all alike", lambda other: _weighted(other, lambda each: each * 0 + 1 / most)
    if most > 1:
        yield "the last one lost", lambda other: _weighted(other, _without_last)
        yield "weights in reverse", lambda other: _weighted(other, lambda each: each.flip(-1))


def _weighted(trial: Trial, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    given, ids, weights = trial.ordered
    return trial.with_inputs(given, ids, change(weights)).evaluate()


def _without_last(weights: torch.Tensor) -> torch.Tensor:
    found = weights.clone()
    found[..., -1] = 0
    return found


EXPERTS = (
    Hypothesis(name="router weights", stages=WEIGHTS, variants=_weighings),
    Hypothesis(name="expert ids", stages=IDS, variants=_namings),
    Hypothesis(name="experts", stages=MIXED, variants=_mixings),
)
