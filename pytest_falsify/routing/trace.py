"""One run of a mixture of experts, as its routers saw it: tokens by layers, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.errors import CaptureError
from pytest_falsify.routing.gate import Chosen, Gate, choose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRouting:
    """What one router saw and what was dispatched.

    Attributes:
        logits: (tokens, experts) of all experts, in the router's own dtype.
        indices: (tokens, active) the experts that each token was sent to. The number of experts
            itself stands for a place that was dropped.
        weights: (tokens, active) what their outputs were multiplied by.
        gate: the rule that the model declares.
        bias: (experts,) what the choice adds to the scores.
    """

    logits: Array
    indices: Array
    weights: Array
    gate: Gate = field(default_factory=Gate)
    bias: Array | None = None

    @property
    def experts(self) -> int:
        """How many experts there are."""
        return int(self.logits.shape[-1])

    @property
    def active(self) -> int:
        """How many experts a token gets."""
        return int(self.indices.shape[-1])

    def recomputed(self) -> Chosen:
        """Return what the declared gate makes of the logits: what should have been dispatched."""
        return choose(self.logits, self.active, self.gate, self.bias)

    def load(self) -> Array:
        """Return how many tokens each expert was sent, (experts,) int64; dropped ones left out."""
        return np.bincount(self.indices.reshape(-1), minlength=self.experts)[: self.experts]

    def dropped(self) -> int:
        """Return how many places were dropped, for want of capacity."""
        return int((self.indices >= self.experts).sum())

    def rows(self, start: int, end: int) -> LayerRouting:
        """Return some of the tokens."""
        return replace(
            self,
            logits=self.logits[start:end],
            indices=self.indices[start:end],
            weights=self.weights[start:end],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens of one sequence.

    Attributes:
        ids: (tokens,) int64
        texts: each token's text, empty where no tokenizer was at hand.
        contexts: (tokens,) int64, how many tokens stand up to and including each.
        starts: (tokens,) float64, when its forward pass began, in ms; equal in a prefill.
        ends: (tokens,) float64, when it ended.
        logits: (tokens,) float64, the logit that the model gave to this token; NaN where unknown,
            as for the first.
        logprobs: (tokens,) float64, the same as a log probability in nats.
    """

    ids: Array
    texts: tuple[str, ...]
    contexts: Array
    starts: Array
    ends: Array
    logits: Array
    logprobs: Array

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """How a run came to be; what is unknown is empty.

    Attributes:
        run_id: names the run's folder; ``/`` groups runs.
        created_at: RFC 3339.
        prompt: the text that the run began with.
        generation: how tokens were chosen.
        capture: how routing was recorded: engine, dtype, device, what was timed.
        derivation_version: the code of what is derived, named before it is.
        derivation_config: its settings.
    """

    run_id: str
    created_at: str
    model_id: str
    tokenizer_id: str
    prompt: str = ""
    seed: int | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    capture: Mapping[str, Any] = field(default_factory=dict)
    derivation_version: str = "routing-motifs/v1"
    derivation_config: str = "experts"

    def to_json(self) -> dict[str, Any]:
        """Return this as the members of a manifest, of either profile."""
        return {
            "run_id": self.run_id,
            "created_at": self.created_at,
            "model_id": self.model_id,
            "tokenizer_id": self.tokenizer_id,
            "prompt": {"text": self.prompt},
            "seed": self.seed,
            "generation_config": dict(self.generation),
            "capture_config": dict(self.capture),
            "derivation_version": self.derivation_version,
            "derivation_config_id": self.derivation_config,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """The routing of one sequence.

    Attributes:
        start: the index of the first token in its run: 0 but for a contiguous segment.
        layers: by index of the layer; dense layers are left out.
    """

    facts: RunFacts
    tokens: Tokens
    layers: Mapping[int, LayerRouting]
    start: int = 0

    def __post_init__(self) -> None:
        count = len(self.tokens)
        if not count or not self.layers:
            msg = "a run without tokens or without routed layers is no evidence"
            raise CaptureError(msg, expected="at least one token and one layer")
        for index, layer in self.layers.items():
            shapes = (layer.logits.shape, layer.indices.shape, layer.weights.shape)
            if any(len(shape) != 2 or shape[0] != count for shape in shapes):  # noqa: PLR2004
                msg = f"layer {index} has the shapes {shapes} for {count} tokens"
                raise CaptureError(
                    msg, expected="(tokens, experts), (tokens, active), (tokens, active)"
                )
            if layer.indices.shape != layer.weights.shape or not 1 <= layer.active <= layer.experts:
                msg = f"layer {index} sends to {layer.active} of {layer.experts} experts"
                raise CaptureError(msg, expected="as many weights as ids, 1 to all of the experts")

    def rows(self, start: int, end: int) -> Routing:
        """Return a contiguous segment: tokens ``start`` to ``end``, ``end`` left out."""
        columns = {name: getattr(self.tokens, name)[start:end] for name in self.tokens.__slots__}
        return replace(
            self,
            start=self.start + start,
            tokens=Tokens(**columns),
            layers={index: each.rows(start, end) for index, each in self.layers.items()},
        )


def unknown(count: int) -> Array:
    """Return as many unknown numbers."""
    return np.full(count, np.nan)


def plain_tokens(ids: Array | list[int], texts: tuple[str, ...] = ()) -> Tokens:
    """Return tokens of which nothing else is known: neither times nor logits."""
    found = np.asarray(ids, dtype=np.int64)
    count = len(found)
    return Tokens(
        ids=found,
        texts=texts or ("",) * count,
        contexts=np.arange(1, count + 1),
        starts=np.zeros(count),
        ends=np.zeros(count),
        logits=unknown(count),
        logprobs=unknown(count),
    )
