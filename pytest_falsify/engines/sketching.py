"""Sketches made by torch where a tensor is: a device need not give up more than they are."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from pytest_falsify.captures.sketch import signs_of, way_of

if TYPE_CHECKING:
    from pytest_falsify.captures.sketch import Sketch
    from pytest_falsify.engines.handout import Channels

FULL = "highest"
SHAPES, SIGNS = 256, 16
"""How many are remembered: a model has some twenty stages, of which each may come at any length."""


def sketch_of(
    stage: str, tensor: torch.Tensor, channels: Channels | None = None
) -> tuple[torch.Tensor, Sketch] | None:
    """Return the projections of a tensor, and how it was sketched; None: it is left as it is.

    Args:
        stage: whose tensor it is, in its dims.
        tensor: of one sequence.
        channels: which of the tensor's channels these are, tokens standing before them; None: all.

    Returns:
        (tokens, projections) on the same device, float32, or float64 of float64. Those of all
        parts, added, are those of the tensor.

    Raises:
        AlignmentError: when the tensor has no axis of tokens.
    """
    way = _way(stage, tensor.shape, tensor.dtype, tensor.device, channels)
    if way is None:
        return None
    sketch, shape, signs = way
    values = tensor if tensor.shape == shape else tensor.reshape(shape)
    if values.dtype != signs.dtype:
        values = values.to(signs.dtype)
    usual = torch.get_float32_matmul_precision()
    if usual == FULL:
        return _projected(values, signs), sketch
    torch.set_float32_matmul_precision(FULL)
    try:
        return _projected(values, signs), sketch
    finally:
        torch.set_float32_matmul_precision(usual)


def _projected(values: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """Return the projections; what stands before the tokens, as heads may, is summed last."""
    return torch.mm(values, signs) if signs.dim() == 2 else torch.bmm(values, signs).sum(0)  # noqa: PLR2004


@lru_cache(maxsize=SHAPES)
def _way(
    stage: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    channels: Channels | None,
) -> tuple[Sketch, tuple[int, ...], torch.Tensor] | None:
    whole = shape if channels is None else (*shape[:-1], channels.width)
    way = way_of(stage, whole, is_wide=dtype is torch.float64)
    if way is None:
        return None
    signs = _signs(way.sketch.width, way.sketch.seed, way.signs.dtype.type, device)
    if channels is not None:
        return way.sketch, shape, signs[channels.first : channels.end]
    return way.sketch, way.shape, signs.view(way.signs.shape)


@lru_cache(maxsize=SIGNS)
def _signs(width: int, seed: int, dtype: type, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(signs_of(width, seed, dtype)).to(device)
