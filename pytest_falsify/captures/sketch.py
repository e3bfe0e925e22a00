"""Tensors reduced to 16 random projections a token: small enough for git, and still comparable.

A sketch of a token is what 16 vectors of random signs make of all its values. Sketching is linear,
so the sketch of a difference is the difference of two sketches, and the relative L2 error of two
sketches estimates that of the tensors (Johnson and Lindenstrauss; signs instead of normal numbers:
Achlioptas, J. Comput. Syst. Sci. 66, 2003). Every value has signs of its own, so a permutation of
values, heads or tokens is seen. What a sketch cannot tell is that no bit differs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod, sqrt
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.errors import AlignmentError
from pytest_falsify.stages.vocabulary import STAGES

if TYPE_CHECKING:
    from pytest_falsify.stages.vocabulary import Site

    Array = np.ndarray[Any, Any]

PROJECTIONS = 16
TOKENS, PROJECTED = "t", "p"
DIMS = f"{TOKENS} {PROJECTED}"
RELATIVE_ERROR = 1 / sqrt(PROJECTIONS)
"""One standard deviation of the estimated relative L2 error of one token, relative to the truth.

To first order it is that of a ratio of two lengths, each known to 1 / sqrt(2 * projections); of a
tensor it is smaller, as far as its tokens differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """How a tensor was sketched.

    Attributes:
        dims: the axes of the tensor before.
        width: how many values a token had.
        seed: of the signs.
    """

    dims: str
    width: int
    seed: int = 0


def sketched(site: Site, tensor: CapturedTensor, *, seed: int = 0) -> CapturedTensor:
    """Return the sketch of a tensor: (tokens, projections) float32, or float64 of float64.

    Ids are left as they are, for they are judged by equality, and so is what is no larger.

    Raises:
        AlignmentError: when the tensor has no axis of tokens.
    """
    if tensor.sketch or STAGES[site.stage].is_index:
        return tensor
    sketch = _sketch(tensor.dims, tensor.array.shape, seed)
    if sketch is None:
        msg = f"{site} cannot be sketched: {tensor.describe()}"
        raise AlignmentError(msg, expected="one axis for each name, and one of them tokens")
    if sketch.width <= PROJECTIONS:
        return tensor
    projected = _projected(tensor.array, tensor.dims.split().index(TOKENS), sketch)
    return CapturedTensor(
        array=projected, dims=DIMS, positions=tensor.positions, mask=tensor.mask, sketch=sketch
    )


@lru_cache(maxsize=64)
def _sketch(dims: str, shape: tuple[int, ...], seed: int) -> Sketch | None:
    """Return how a tensor of some dims and shape is sketched, or None when it cannot be."""
    names = dims.split()
    if len(shape) != len(names) or TOKENS not in names:
        return None
    others = [each for each in zip(names, shape, strict=True) if each[0] != TOKENS]
    return Sketch(
        dims=" ".join((TOKENS, *(name for name, _ in others))),
        width=prod(length for _, length in others),
        seed=seed,
    )


def _projected(array: Array, axis: int, sketch: Sketch) -> Array:
    """Return the projections of each token: (tokens, projections).

    What stands before the tokens, as heads may, is summed last, for moving it would be a copy.

    Args:
        array: the values in any order of axes.
        axis: where its tokens are.
        sketch: how it is sketched.
    """
    dtype = np.float64 if array.dtype == np.float64 else np.float32
    before, tokens = prod(array.shape[:axis]), array.shape[axis]
    values: Array = array.reshape(before, tokens, -1).astype(dtype, copy=False)
    signs: Array = _signs(sketch.width, sketch.seed).astype(dtype, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):  # an infinity becomes NaN: it stays visible
        parts: Array = values @ signs.reshape(before, -1, PROJECTIONS)
        found: Array = parts[0] if before == 1 else parts.sum(axis=0)
    return found


class Sketching:
    """A sink that keeps sketches and no tensor, so none need be copied for it."""

    borrows: ClassVar[bool] = True

    def __init__(self) -> None:
        self.seen: dict[Site, CapturedTensor] = {}

    def __call__(self, site: Site, tensor: CapturedTensor, /) -> None:
        """Take one tensor."""
        found = sketched(site, tensor)
        # What is no sketch is still the engine's own memory.
        self.seen[site] = found if found.sketch else replace(found, array=found.array.copy())


def alike(
    site: Site, subject: CapturedTensor, oracle: CapturedTensor
) -> tuple[CapturedTensor, CapturedTensor]:
    """Return two tensors that can be compared: both sketches of one kind, or neither a sketch.

    Where one side is a sketch the other is sketched as it was.

    Raises:
        AlignmentError: when they are sketches of different kinds.
    """
    sketch = subject.sketch or oracle.sketch
    if sketch is None:
        return subject, oracle
    pair = tuple(
        sketched(site, _ordered(each, sketch), seed=sketch.seed) for each in (subject, oracle)
    )
    if pair[0].sketch != pair[1].sketch:
        msg = f"the sketches are of different tensors: {pair[0].sketch}, {pair[1].sketch}"
        raise AlignmentError(msg, expected="sketches of the same axes, width and seed")
    return pair[0], pair[1]


def _ordered(tensor: CapturedTensor, sketch: Sketch) -> CapturedTensor:
    """Return a tensor with its axes in the order in which the other side was sketched."""
    names, wanted = tensor.dims.split(), sketch.dims.split()
    if tensor.sketch or sorted(names) != sorted(wanted):
        return tensor
    return replace(
        tensor,
        array=tensor.array.transpose([names.index(name) for name in wanted]),
        dims=sketch.dims,
    )


@lru_cache(maxsize=16)
def _signs(width: int, seed: int) -> Array:
    """Return (width, projections) float32 of -1 and 1, the same for ever: SHAKE-256's bits."""
    stream = hashlib.shake_256(f"pytest-falsify sketch {seed} {width}".encode())
    bits = np.unpackbits(np.frombuffer(stream.digest(width * PROJECTIONS // 8), np.uint8))
    return (2.0 * bits - 1.0).astype(np.float32).reshape(width, PROJECTIONS)
