"""Recording from a model that somebody else runs: `generate`, a server's loop, a whole batch.

Nothing is copied, computed or waited for while the model runs: the tensors that the experts were
called with are kept as they are, and turned into arrays when the recording is asked for.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_falsify.engines.handout import off_device
from pytest_falsify.errors import CaptureError
from pytest_falsify.routing.blocks import Block, blocks_of
from pytest_falsify.routing.trace import LayerRouting, Routing, Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from numpy.typing import NDArray

    from pytest_falsify.routing.trace import RunFacts

    Array = NDArray[Any]

MILLISECONDS = 1e3


class _Seen(NamedTuple):
    """What one call of a layer's experts was given."""

    logits: Any
    indices: Any
    weights: Any


class _Pass(NamedTuple):
    """One forward pass: the (batch, tokens) ids that were fed, its mask, its answer, its times."""

    ids: Any
    mask: Any
    logits: Any
    start: float
    end: float


@dataclass(slots=True, kw_only=True)
class Recording:
    """What was seen of the forward passes of one batch.

    Attributes:
        seen: by layer, what its experts were called with, pass by pass.
        pending: by layer, the router's logits until its experts are called.
        began: when the pass that is running began.
        epoch: what times are counted from.
    """

    facts: RunFacts
    blocks: tuple[Block, ...]
    seen: dict[int, list[_Seen]] = field(default_factory=dict)
    passes: list[_Pass] = field(default_factory=list)
    pending: dict[int, Any] = field(default_factory=dict)
    began: float = 0.0
    epoch: float = field(default_factory=perf_counter)

    def routings(self) -> tuple[Routing, ...]:
        """Return the routing of each sequence of the batch, padding left out.

        The token that was decoded last was never fed, and so never routed.

        Raises:
            CaptureError: when nothing ran, or batches of several sizes did.
        """
        if not self.passes:
            msg = "no forward pass was recorded"
            raise CaptureError(msg, remedy="run the model inside of `recording`")
        sizes = {each.ids.shape[0] for each in self.passes}
        if len(sizes) != 1:
            msg = f"batches of {sorted(sizes)} sequences were run"
            raise CaptureError(msg, expected="one recording for each batch")
        size = sizes.pop()
        layers = {each.layer: self._layer(each) for each in self.blocks}
        names = [self.facts.run_id] if size == 1 else _numbered(self.facts.run_id, size)
        return tuple(
            self._sequence(index, replace(self.facts, run_id=name), layers)
            for index, name in enumerate(names)
        )

    def _layer(self, block: Block) -> list[LayerRouting]:
        """Return what a layer saw, pass by pass, all sequences one after the other."""
        bias = None if block.bias is None else off_device(block.bias)
        seen = self.seen.get(block.layer, [])
        if len(seen) != len(self.passes):
            msg = f"layer {block.layer} routed {len(seen)} of {len(self.passes)} passes"
            raise CaptureError(msg, expected="one call of its experts in every pass")
        return [
            LayerRouting(
                logits=off_device(each.logits),
                indices=off_device(each.indices),
                weights=off_device(each.weights),
                gate=block.gate,
                bias=bias,
            )
            for each in seen
        ]

    def _sequence(
        self, index: int, facts: RunFacts, layers: dict[int, list[LayerRouting]]
    ) -> Routing:
        ids, rows, starts, ends = self._columns(index)
        logits, logprobs = self._answers(index, ids)
        return Routing(
            facts=facts,
            tokens=Tokens(
                ids=ids,
                texts=("",) * len(ids),
                contexts=np.arange(1, len(ids) + 1),
                starts=starts,
                ends=ends,
                logits=logits,
                logprobs=logprobs,
            ),
            layers={layer: _rows(parts, rows) for layer, parts in layers.items()},
        )

    def _columns(self, index: int) -> tuple[Array, list[Array], Array, Array]:
        """Return ids, the rows of each pass's flat tensors, and times, of one sequence."""
        ids, rows, starts, ends = [], [], [], []
        for each in self.passes:
            length = each.ids.shape[1]
            columns = np.arange(length)[_is_own(each, index, length)]
            ids.append(off_device(each.ids[index])[columns])
            rows.append(index * length + columns)
            starts.append(np.full(len(columns), each.start))
            ends.append(np.full(len(columns), each.end))
        return np.concatenate(ids), rows, np.concatenate(starts), np.concatenate(ends)

    def _answers(self, index: int, ids: Array) -> tuple[Array, Array]:
        """Return the logit and log probability that the model gave to each token that it was fed.

        Where a pass only kept the logits of its last token, those of the others are unknown.
        """
        logits, logprobs = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
        place = 0
        for each in self.passes:
            length = each.ids.shape[1]
            own = int(_is_own(each, index, length).sum())
            place += own
            kept = min(own, 0 if each.logits is None else each.logits.shape[1])
            for back in range(kept):
                token = place - back  # the one that this row of logits predicts
                if token < len(ids):
                    row = off_device(each.logits[index, -1 - back].float()).astype(np.float64)
                    logits[token] = row[ids[token]]
                    logprobs[token] = row[ids[token]] - _log_sum(row)
        return logits, logprobs


@contextmanager
def recording(model: torch.nn.Module, facts: RunFacts) -> Iterator[Recording]:
    """Record what a model of transformers routes while it runs.

    Args:
        model: a mixture of experts; see ``blocks_of`` for what can be recorded.
        facts: how the run came to be; of a batch, each sequence's id ends in its number.

    Raises:
        CaptureError: when the model routes nothing that could be recorded.
    """
    found = Recording(facts=facts, blocks=blocks_of(model))
    handles = [
        model.register_forward_pre_hook(_begin(found), with_kwargs=True),
        model.register_forward_hook(_end(found), with_kwargs=True),
    ]
    for block in found.blocks:
        handles.append(block.router.register_forward_hook(_routed(found, block.layer)))
        handles.append(block.experts.register_forward_pre_hook(_dispatched(found, block.layer)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _begin(found: Recording) -> Any:
    def hook(_module: Any, _given: Any, _options: Any) -> None:
        found.began = perf_counter()

    return hook


def _end(found: Recording) -> Any:
    def hook(_module: Any, given: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        ids = options.get("input_ids", given[0] if given else None)
        if ids is None:
            msg = "a recorded model was fed embeddings"
            raise CaptureError(msg, expected="input_ids")
        times = [(each - found.epoch) * MILLISECONDS for each in (found.began, perf_counter())]
        mask = options.get("attention_mask")
        found.passes.append(_Pass(ids, mask, output.logits, *times))

    return hook


def _routed(found: Recording, layer: int) -> Any:
    def hook(_module: Any, _given: Any, output: tuple[Any, ...]) -> None:
        found.pending[layer] = output[0]

    return hook


def _dispatched(found: Recording, layer: int) -> Any:
    def hook(_module: Any, given: tuple[Any, ...]) -> None:
        _, indices, weights = given
        seen = _Seen(found.pending.pop(layer), indices, weights)
        found.seen.setdefault(layer, []).append(seen)

    return hook


def _is_own(each: _Pass, index: int, length: int) -> Array:
    """Tell which columns of a pass are tokens and no padding."""
    if each.mask is None:
        return np.ones(length, dtype=bool)
    is_own: Array = off_device(each.mask[index, -length:]) != 0
    return is_own


def _rows(parts: list[LayerRouting], rows: list[Array]) -> LayerRouting:
    chosen = list(zip(parts, rows, strict=True))
    return replace(
        parts[0],
        logits=np.concatenate([part.logits[at] for part, at in chosen]),
        indices=np.concatenate([part.indices[at] for part, at in chosen]),
        weights=np.concatenate([part.weights[at] for part, at in chosen]),
    )


def _numbered(run_id: str, size: int) -> list[str]:
    return [f"{run_id}/{index:03d}" for index in range(size)]


def _log_sum(row: Array) -> float:
    top = float(row.max())
    return top + float(np.log(np.exp(row - top).sum()))
