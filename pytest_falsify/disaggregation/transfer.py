"""The way of a cache from the worker that prefills to the one that decodes.

Of each layer the keys and the values are cut by heads, one part for each rank that sends; each
part is encoded; its values are cut into blocks of tokens; all of it travels under names
``layer.k.rank.part.block``. The receiver puts it together the other way round, and then over as
many ranks as receive.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.disaggregation.arrival import must_be_as_sent
from pytest_falsify.disaggregation.caches import KEYS, VALUES, LayerCache
from pytest_falsify.disaggregation.carriers import SHARED_MEMORY, SOCKET
from pytest_falsify.disaggregation.codecs import (
    CASTS,
    CHANNEL,
    HEAD,
    QUANTISED,
    Codec,
    codec_named,
    loaded,
    rounding,
)
from pytest_falsify.disaggregation.codecs import VALUES as CODED
from pytest_falsify.disaggregation.frames import framed, unframed
from pytest_falsify.disaggregation.own import own
from pytest_falsify.disaggregation.programs import SCHEMA as PROGRAM
from pytest_falsify.disaggregation.programs import Program
from pytest_falsify.disaggregation.shards import joined, sharded
from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch
    from numpy.typing import NDArray

    Tensors = Mapping[str, torch.Tensor]

WIDE = ("float32", "float64")
AS_THEY_ARE, REVERSED = "as they are", "reversed"
_RANKS = {"type": "integer", "minimum": 1, "maximum": 1024}
_OWN = {"type": "string", "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "what becomes of the cache between prefill and decode",
    "properties": {
        "codec": {
            "description": "what travels: every bit, another dtype, or the user's `module:codec`",
            "anyOf": [{"enum": ["identity", *CASTS, *QUANTISED]}, _OWN],
            "default": "identity",
        },
        "per": {
            "description": "what a scale of int8 or fp8 belongs to",
            "enum": [HEAD, CHANNEL],
            "default": HEAD,
        },
        "by": {
            "description": "how the bytes travel",
            "enum": [SHARED_MEMORY, SOCKET],
            "default": SHARED_MEMORY,
        },
        "through": {
            "description": "the user's own transfer from the tensors sent, by name, to those that "
            "arrive: a `module:function`, or a program",
            "anyOf": [_OWN, PROGRAM],
        },
        "streamed": {
            "description": "send each layer when it is computed, not all of them at the end",
            "type": "boolean",
            "default": False,
        },
        "block": {
            "description": "send the tokens in blocks of so many",
            "type": "integer",
            "minimum": 1,
        },
        "order": {
            "description": "the order in which blocks lie in what is sent",
            "enum": [AS_THEY_ARE, REVERSED],
            "default": AS_THEY_ARE,
        },
        "ranks": {
            "description": "the tensor-parallel ranks that send, and those that receive",
            "type": "object",
            "properties": {"from": _RANKS, "to": _RANKS},
            "required": ["from", "to"],
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One way to transfer; the attributes are those of ``SCHEMA``.

    Attributes:
        options: as a contract states them, without what it leaves out.
        folder: the repository, in which a program runs.
    """

    options: Mapping[str, Any]
    folder: Path = Path()

    @cached_property
    def codec(self) -> Codec:
        """What becomes of the values."""
        return codec_named(self._option("codec"), per=self._option("per"))

    @cached_property
    def through(self) -> Callable[[Tensors], Tensors] | None:
        """The user's own transfer, if any."""
        given = self.options.get("through")
        if given is None:
            return None
        return Program.of(given, self.folder) if runs_program(self.options) else loaded(given)

    @property
    def by(self) -> str:
        """How the bytes travel."""
        return str(self._option("by"))

    @property
    def is_streamed(self) -> bool:
        """Whether layers are sent one by one."""
        return bool(self._option("streamed"))

    @property
    def ranks(self) -> tuple[int, int]:
        """How many ranks send, and how many receive."""
        ranks = self.options.get("ranks", {"from": 1, "to": 1})
        return ranks["from"], ranks["to"]

    def packed(self, layers: Mapping[int, LayerCache]) -> list[memoryview]:
        """Return the bytes of some layers, in pieces."""
        tensors = {
            name: tensor
            for layer, cache in layers.items()
            for kind, half in ((KEYS, cache.keys), (VALUES, cache.values))
            for name, tensor in self._parts(f"{layer}.{kind}", half)
        }
        return framed(self._carried(tensors))

    def unpacked(
        self, data: memoryview, expected: Mapping[int, tuple[int, int, int]]
    ) -> dict[int, LayerCache]:
        """Return the layers that some bytes hold.

        Args:
            data: what arrived.
            expected: of each layer the key heads, the tokens that were kept, and those seen.

        Raises:
            CaptureError: when something is missing, is too much, or has another shape.
        """
        arrived = _gathered(unframed(data))
        found = {}
        for layer, (heads, kept, length) in expected.items():
            halves = [self._whole(arrived, f"{layer}.{kind}", heads) for kind in (KEYS, VALUES)]
            for half in halves:
                if half.shape[:2] != (heads, kept):
                    msg = f"the cache of layer {layer} arrived as {tuple(half.shape)}"
                    raise CaptureError(msg, expected=f"{heads} heads of {kept} tokens")
            found[layer] = LayerCache(keys=halves[0], values=halves[1], length=length)
        return found

    def bound(self, sent: NDArray[Any], received: NDArray[Any]) -> NDArray[Any]:
        """Return how far each received value may be from the one that was sent.

        The receiver rounds to its own dtype, unless every bit arrives or that dtype is wide enough.

        Args:
            sent: (tokens, key heads, channels), in the dtype it was sent from.
            received: the same where it arrived.
        """
        bound = self.codec.bound(sent.astype(np.float64))
        is_exact = getattr(self.codec, "is_exact", False) and sent.dtype == received.dtype
        if is_exact or received.dtype.name in WIDE:
            return bound
        return bound + rounding(np.abs(sent.astype(np.float64)) + bound, received.dtype.name)

    def _carried(self, tensors: Tensors) -> Tensors:
        if self.through is None:
            return tensors
        with own("the user's own transfer"):
            arrived = self.through(tensors)
            must_be_as_sent(tensors, arrived, "the user's own transfer")
        return arrived

    def _option(self, name: str) -> Any:
        return self.options.get(name, SCHEMA["properties"][name].get("default"))

    def _parts(self, name: str, half: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        for rank, shard in enumerate(sharded(half, self.ranks[0])):
            for part, tensor in self.codec.encode(shard).items():
                blocks = self._blocks(tensor) if part == CODED else [tensor]
                numbered = list(enumerate(blocks))
                if self._option("order") == REVERSED:
                    numbered.reverse()
                for number, block in numbered:
                    yield f"{name}.{rank}.{part}.{number}", block

    def _blocks(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        size = self.options.get("block")
        return [tensor] if size is None else list(tensor.split(size, dim=1))

    def _whole(
        self, arrived: Mapping[str, dict[str, torch.Tensor]], name: str, heads: int
    ) -> torch.Tensor:
        senders, receivers = self.ranks
        shards = []
        for rank in range(senders):
            parts = arrived.get(f"{name}.{rank}", {})
            if CODED not in parts:
                msg = f"`{name}` of rank {rank} did not arrive"
                raise CaptureError(msg, expected="every layer's keys and values from every rank")
            shards.append(self.codec.decode(parts))
        return joined(sharded(joined(shards, heads), receivers), heads)


def runs_program(options: Mapping[str, Any]) -> bool:
    """Tell whether a transfer with these options runs a program."""
    return isinstance(options.get("through"), dict)


def _gathered(tensors: Tensors) -> dict[str, dict[str, torch.Tensor]]:
    """Return what arrived by half of a layer and rank, blocks put together in their order."""
    import torch

    blocks: dict[str, dict[str, dict[int, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        half, part, number = name.rsplit(".", 2)
        blocks.setdefault(half, {}).setdefault(part, {})[int(number)] = tensor
    return {
        half: {
            part: torch.cat([each for _, each in sorted(numbered.items())], dim=1)
            if len(numbered) > 1
            else next(iter(numbered.values()))
            for part, numbered in parts.items()
        }
        for half, parts in blocks.items()
    }
