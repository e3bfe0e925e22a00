"""How a router makes experts and weights of its logits, and the same thing done again.

A router scores every expert, chooses the best k, and weighs them. What differs between models is
data: the score (softmax, sigmoid, or a softmax over the chosen alone), a bias that takes part in
the choice and not in the weight, groups of experts of which only the best may be chosen from,
renormalised weights and their scale. Sources: the routers of OLMoE, Qwen2-MoE, Qwen3-MoE, Mixtral,
GPT-OSS and DeepSeek-V3 (arXiv:2412.19437, equations 12 to 16) in transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[Any]

BEST_OF_GROUP = 2
"""A group of experts is as good as its two best."""
TINY = 1e-20


class Score(Enum):
    """What a logit is turned into."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    SOFTMAX_OF_CHOSEN = "softmax_of_chosen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The rule of one router.

    Attributes:
        is_biased: a bias is added to the scores for the choice, and not for the weights.
        is_renormalised: the weights of the chosen are divided by their sum.
        scale: the factor of all weights.
        groups: into how many groups the experts are divided, in order.
        chosen_groups: from how many of them may be chosen.
        shared_experts: how many further experts every token passes, without a router.
    """

    score: Score = Score.SOFTMAX
    is_biased: bool = False
    is_renormalised: bool = False
    scale: float = 1.0
    groups: int = 1
    chosen_groups: int = 1
    shared_experts: int = 0

    def __str__(self) -> str:
        words = [self.score.value]
        words += ["biased"] if self.is_biased else []
        words += ["renormalised"] if self.is_renormalised else []
        if self.groups > self.chosen_groups:
            words.append(f"{self.chosen_groups} of {self.groups} groups")
        words += [f"scaled by {self.scale:g}"] if self.scale != 1 else []
        words += [f"{self.shared_experts} shared"] if self.shared_experts else []
        return ", ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Return this gate as a JSON value."""
        return {
            "score": self.score.value,
            "is_biased": self.is_biased,
            "is_renormalised": self.is_renormalised,
            "scale": self.scale,
            "groups": self.groups,
            "chosen_groups": self.chosen_groups,
            "shared_experts": self.shared_experts,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Gate:
        """Read what ``to_json`` writes; what is left out is as in a plain softmax."""
        known = dict(body)
        return cls(score=Score(known.pop("score", Score.SOFTMAX.value)), **known)

    @property
    def is_plain(self) -> bool:
        """Whether the chosen are the most probable of a softmax, as ``raw/v0.1.0`` takes it."""
        return (
            self.score is not Score.SIGMOID
            and not self.is_biased
            and self.groups == self.chosen_groups
        )


class Chosen(NamedTuple):
    """What a gate makes of logits: (tokens, active) ids, best first, and their weights."""

    indices: Array
    weights: Array


def softmax(logits: Array) -> Array:
    """Return the softmax over the last axis in float64; NaN where a row has no distribution."""
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        wide -= wide.max(axis=-1, keepdims=True)
        np.exp(wide, out=wide)
        wide /= wide.sum(axis=-1, keepdims=True)
    return wide


def scores(logits: Array, gate: Gate) -> Array:
    """Return what the weights are made of, (tokens, experts) float64."""
    if gate.score is Score.SIGMOID:
        with np.errstate(over="ignore"):
            found: Array = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
        return found
    return softmax(logits)


def selection(logits: Array, gate: Gate, bias: Array | None = None) -> Array:
    """Return what the choice is made by: scores, their bias added; -inf outside chosen groups."""
    found = scores(logits, gate)
    if bias is not None:
        found = found + bias.astype(np.float64)
    if gate.groups > gate.chosen_groups:
        found = np.where(_is_open(found, gate), found, -np.inf)
    return found


def choose(logits: Array, active: int, gate: Gate, bias: Array | None = None) -> Chosen:
    """Choose and weigh again; equal scores in the order of the experts' ids.

    Args:
        logits: (tokens, experts) of the router.
        active: how many experts a token gets.
        gate: the rule.
        bias: (experts,) what the choice adds to the scores.
    """
    by = selection(logits, gate, bias)
    indices = np.argsort(-by, axis=-1, kind="stable")[:, :active]
    return Chosen(indices, weigh(logits, indices, gate))


def weigh(logits: Array, indices: Array, gate: Gate) -> Array:
    """Return the weights that a gate gives to experts that were chosen, float64."""
    if gate.score is Score.SOFTMAX_OF_CHOSEN:
        weights = softmax(np.take_along_axis(logits, indices, axis=-1))
    else:
        weights = np.take_along_axis(scores(logits, gate), indices, axis=-1)
    if gate.is_renormalised:
        weights = weights / (weights.sum(axis=-1, keepdims=True) + TINY)
    return weights * gate.scale


def group_scores(by: Array, groups: int) -> Array:
    """Return how good each group is: (tokens, groups), the sum of its two best."""
    grouped = by.reshape(*by.shape[:-1], groups, by.shape[-1] // groups)
    best: Array = np.sort(grouped, axis=-1)[..., -BEST_OF_GROUP:].sum(axis=-1)
    return best


def _is_open(by: Array, gate: Gate) -> Array:
    """Tell which experts are in a group that may be chosen from."""
    found = group_scores(by, gate.groups)
    order = np.argsort(-found, axis=-1, kind="stable")[:, : gate.chosen_groups]
    is_open = np.zeros(found.shape, dtype=bool)
    np.put_along_axis(is_open, order, values=True, axis=-1)
    return np.repeat(is_open, by.shape[-1] // gate.groups, axis=-1)
