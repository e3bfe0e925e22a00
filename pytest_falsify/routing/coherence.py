"""Whether routing has a structure across layers, against the same routing with its tokens shuffled.

The measure is the mutual information of a token's first expert in one layer and in the next. Any
sample of tokens shows some, and more experts show more; so it is held against a null: each layer's
tokens shuffled apart, which keeps every expert's load and breaks what binds the layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pytest_falsify.routing.trace import LayerRouting, Routing

    Array = NDArray[Any]

ROUNDS, SEED = 20, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coherence:
    """How much a layer's first expert tells of the next layer's, in nats, the mean of all pairs.

    Attributes:
        observed: of the run; None where there is but one layer.
        scrambled: the same of each scrambled run.
    """

    observed: float | None
    scrambled: tuple[float, ...]

    @property
    def is_coherent(self) -> bool:
        """Whether the run has more structure than any of its scrambled copies."""
        return self.observed is not None and self.observed > max(self.scrambled)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        found: dict[str, float] = {"rounds": ROUNDS, "seed": SEED}
        if self.scrambled:
            mean = float(np.mean(self.scrambled))
            found |= {"mean": mean, "largest": max(self.scrambled)}
        return {
            "measure": "mutual information of first experts in adjacent layers, nats",
            "observed": self.observed,
            "scrambled": found,
            "fit": "coherent" if self.is_coherent else "weak",
        }


def coherence(routing: Routing, *, rounds: int = ROUNDS, seed: int = SEED) -> Coherence:
    """Measure a run and its scrambled copies."""
    experts = first_experts(routing)
    if len(experts) < 2:  # noqa: PLR2004 - a pair of layers
        return Coherence(observed=None, scrambled=())
    generator = np.random.Generator(np.random.PCG64(seed))
    scrambled = [
        _mean_information([generator.permutation(each) for each in experts]) for _ in range(rounds)
    ]
    return Coherence(observed=_mean_information(experts), scrambled=tuple(scrambled))


def first_experts(routing: Routing) -> list[Array]:
    """Return the expert of the largest weight of each token, layer by layer."""
    return [_first(each) for _, each in sorted(routing.layers.items())]


def joint_counts(a: Array, b: Array) -> Iterator[tuple[int, int, int]]:
    """Yield which pairs occur and how often, in order."""
    pairs, counts = np.unique(np.stack([a, b], axis=1), axis=0, return_counts=True)
    for (left, right), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        yield left, right, count


def information(a: Array, b: Array) -> float:
    """Return the mutual information of two rows of labels, in nats."""
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a, b), 1.0)
    table /= table.sum()
    apart = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True)
    known = table > 0
    return float((table[known] * np.log(table[known] / apart[known])).sum())


def _first(layer: LayerRouting) -> Array:
    best = layer.weights.astype(np.float64).argmax(axis=1)
    return np.asarray(layer.indices[np.arange(len(best)), best], dtype=np.int64)


def _mean_information(experts: list[Array]) -> float:
    return float(np.mean([information(a, b) for a, b in pairwise(experts)]))
