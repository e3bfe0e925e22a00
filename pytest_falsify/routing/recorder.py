"""Recording from a loop of one's own: logits, and what was dispatched, token by token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.errors import CaptureError
from pytest_falsify.routing.arrays import to_array
from pytest_falsify.routing.gate import Gate
from pytest_falsify.routing.trace import LayerRouting, Routing, RunFacts, Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[Any]

NOT_CAPTURED = "recomputed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """What is known of one token.

    Attributes:
        context: how many tokens stand up to and including it; None: one more than before.
        start: when its forward pass began, in ms.
        end: when it ended.
        logit: what the model gave to it.
        logprob: the same as a log probability, in nats.
    """

    id: int
    text: str = ""
    context: int | None = None
    start: float = 0.0
    end: float = 0.0
    logit: float = float("nan")
    logprob: float = float("nan")


@dataclass(slots=True, kw_only=True)
class RoutingRecorder:
    """Collects the routing of one sequence.

    Attributes:
        facts: how the run came to be.
        gate: the rule that the model declares, of all layers or by layer.
        active: how many experts a token gets.
        biases: by layer, what the choice adds to the scores.
        start: the index of the first token in its run.
    """

    facts: RunFacts
    active: int
    gate: Gate | Mapping[int, Gate] = field(default_factory=Gate)
    biases: Mapping[int, Any] = field(default_factory=dict)
    start: int = 0
    _tokens: list[TokenFacts] = field(default_factory=list)
    _layers: dict[int, list[LayerRouting]] = field(default_factory=dict)
    _is_recomputed: bool = False

    def record_token(
        self,
        token: int | TokenFacts,
        logits: Mapping[int, Any],
        *,
        dispatched: Mapping[int, tuple[Any, Any]] | None = None,
    ) -> None:
        """Take one token.

        Args:
            token: its id, or all that is known of it.
            logits: by layer, the (experts,) router logits: a tensor of torch, NumPy, anything with
                ``__array__`` or DLPack, or a list.
            dispatched: by layer, the (active,) ids and weights that the experts really got. Without
                them they are recomputed, and the run says so.

        Raises:
            CaptureError: when layers or shapes are not those of the tokens before; nothing of the
                token is kept then.
        """
        facts = token if isinstance(token, TokenFacts) else TokenFacts(id=token)
        if dispatched is not None and dispatched.keys() != logits.keys():
            msg = f"layers {sorted(dispatched)} were dispatched, {sorted(logits)} have logits"
            raise CaptureError(msg, expected="the same layers")
        found = {
            index: self._layer(index, each, None if dispatched is None else dispatched[index])
            for index, each in logits.items()
        }
        self._must_be_alike(found)
        before = self._tokens[-1].context if self._tokens else self.start
        context = (before or 0) + 1 if facts.context is None else facts.context
        self._tokens.append(replace(facts, context=context))
        self._is_recomputed |= dispatched is None
        for index, each in found.items():
            self._layers.setdefault(index, []).append(each)

    def routing(self) -> Routing:
        """Return what was recorded so far.

        Raises:
            CaptureError: when nothing was.
        """
        facts = self.facts
        if self._is_recomputed:
            facts = replace(facts, capture={**facts.capture, "dispatch": NOT_CAPTURED})
        return Routing(
            facts=facts,
            start=self.start,
            tokens=_columns(self._tokens),
            layers={index: joined(each) for index, each in sorted(self._layers.items())},
        )

    def _layer(self, index: int, logits: Any, sent: tuple[Any, Any] | None) -> LayerRouting:
        row = to_array(logits, f"layer {index}: the logits")
        if row.ndim != 1 or not 1 <= self.active <= len(row) or not np.isfinite(_wide(row)).all():
            msg = f"layer {index}: logits of shape {row.shape} for {self.active} active experts"
            raise CaptureError(msg, expected="one finite logit an expert of one token, (experts,)")
        gate = self.gate if isinstance(self.gate, Gate) else self.gate[index]
        bias = self.biases.get(index)
        layer = LayerRouting(
            logits=row[np.newaxis],
            indices=np.zeros((1, self.active), dtype=np.int64),
            weights=np.zeros((1, self.active), dtype=np.float32),
            gate=replace(gate, is_biased=bias is not None),
            bias=None if bias is None else to_array(bias, f"layer {index}: the bias"),
        )
        if sent is None:
            again = layer.recomputed()
            return replace(layer, indices=again.indices, weights=again.weights.astype(np.float32))
        ids, weights = (
            to_array(each, f"layer {index}: the {what}")
            for each, what in zip(sent, ("ids", "weights"), strict=True)
        )
        if ids.shape != (self.active,) or weights.shape != (self.active,) or ids.dtype.kind == "f":
            msg = f"layer {index}: ids {ids.dtype}{ids.shape}, weights of shape {weights.shape}"
            raise CaptureError(msg, expected=f"({self.active},) whole ids and weights")
        return replace(layer, indices=ids[np.newaxis], weights=weights[np.newaxis])

    def _must_be_alike(self, found: Mapping[int, LayerRouting]) -> None:
        if not found:
            msg = "a token without a routed layer"
            raise CaptureError(msg, expected="the logits of at least one layer")
        if self._layers and found.keys() != self._layers.keys():
            msg = f"layers {sorted(found)} after {sorted(self._layers)}"
            raise CaptureError(msg, expected="the same layers for every token")
        for index, each in found.items():
            known = self._layers.get(index)
            if known and known[0].experts != each.experts:
                msg = f"layer {index} has {each.experts} experts after {known[0].experts}"
                raise CaptureError(msg, expected="as many experts for every token")


def joined(parts: list[LayerRouting]) -> LayerRouting:
    """Return the tokens of one layer's parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        logits=np.concatenate([each.logits for each in parts]),
        indices=np.concatenate([each.indices for each in parts]),
        weights=np.concatenate([each.weights for each in parts]),
    )


def _columns(tokens: list[TokenFacts]) -> Tokens:
    def column(name: str, dtype: Any = np.float64) -> Array:
        return np.array([getattr(each, name) for each in tokens], dtype=dtype)

    return Tokens(
        ids=column("id", np.int64),
        texts=tuple(each.text for each in tokens),
        contexts=column("context", np.int64),
        starts=column("start"),
        ends=column("end"),
        logits=column("logit"),
        logprobs=column("logprob"),
    )


def _wide(array: Array) -> Array:
    return array.astype(np.float64)
