"""Heads over the ranks of tensor parallelism, and from as many ranks to as many others.

A rank holds neighbouring heads. Where there are more ranks than key heads, several ranks hold the
same head, as serving engines replicate them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


def heads_of(heads: int, ranks: int) -> tuple[range, ...]:
    """Return which heads each rank holds.

    Raises:
        CaptureError: when they do not divide.
    """
    if max(heads, ranks) % min(heads, ranks):
        msg = f"{heads} key heads do not divide over {ranks} ranks"
        raise CaptureError(msg, expected="ranks that divide the key heads, or a multiple of them")
    if ranks <= heads:
        ends = range(0, heads + 1, heads // ranks)
        return tuple(range(first, end) for first, end in pairwise(ends))
    copies = ranks // heads
    return tuple(range(rank // copies, rank // copies + 1) for rank in range(ranks))


def sharded(tensor: torch.Tensor, ranks: int) -> list[torch.Tensor]:
    """Return what each rank holds of a tensor (key heads, tokens, channels)."""
    if ranks == 1:
        return [tensor]
    return [tensor[each.start : each.stop] for each in heads_of(tensor.shape[0], ranks)]


def joined(shards: Sequence[torch.Tensor], heads: int) -> torch.Tensor:
    """Return the tensor (key heads, tokens, channels) that ranks hold together."""
    import torch

    if len(shards) == 1:
        return shards[0]
    return torch.cat(list(shards[:: max(1, len(shards) // heads)]))
