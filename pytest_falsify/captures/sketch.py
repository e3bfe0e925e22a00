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
    from collections.abc import Callable

    from pytest_falsify.stages.vocabulary import Site

    Array = np.ndarray[Any, Any]
    Product = Callable[[Array, Array], Array]

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


def product(values: Array, signs: Array) -> Array:
    """Return the product of two matrices, or of two stacks of them.

    An infinity becomes NaN and not a warning: so it stays visible.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        found: Array = values @ signs
        return found


def sketched(
    site: Site, tensor: CapturedTensor, *, seed: int = 0, multiply: Product = product
) -> CapturedTensor:
    """Return the sketch of a tensor: (tokens, projections) float32, or float64 of float64.

    Ids are left as they are, for they are judged by equality, and so is what is no larger.

    Args:
        site: whose tensor it is.
        tensor: of a session, or a sketch already.
        seed: of the signs.
        multiply: makes the product of two matrices; another one rounds otherwise.

    Raises:
        AlignmentError: when the tensor has no axis of tokens.
    """
    if tensor.sketch or STAGES[site.stage].is_index:
        return tensor
    is_wide = tensor.array.dtype == np.float64
    way = _way(tensor.dims, tensor.array.shape, seed, np.float64 if is_wide else np.float32)
    if way is None:
        msg = f"{site} cannot be sketched: {tensor.describe()}"
        raise AlignmentError(msg, expected="one axis for each name, and one of them tokens")
    if way.sketch.width <= PROJECTIONS:
        return tensor
    return CapturedTensor(
        array=way.projected(tensor.array, multiply),
        dims=DIMS,
        positions=tensor.positions,
        mask=tensor.mask,
        sketch=way.sketch,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How tensors of some dims, shape and dtype are sketched.

    Attributes:
        sketch: what it makes of them.
        shape: what they are seen as: (before, tokens, after), without the first where it is 1.
        signs: (before, after, projections), likewise.
    """

    sketch: Sketch
    shape: tuple[int, ...]
    signs: Array

    def projected(self, array: Array, multiply: Product) -> Array:
        """Return the projections of each token: (tokens, projections).

        What stands before the tokens, as heads may, is summed last, for moving it would be a copy.
        """
        values = array.reshape(self.shape).astype(self.signs.dtype, copy=False)
        if self.signs.ndim == len(DIMS.split()):
            return multiply(values, self.signs)
        found: Array = product(values, self.signs).sum(axis=0)
        return found


@lru_cache(maxsize=64)
def _way(dims: str, shape: tuple[int, ...], seed: int, dtype: type) -> _Way | None:
    """Return how tensors are sketched, or None when they cannot be."""
    names = dims.split()
    if len(shape) != len(names) or TOKENS not in names:
        return None
    others = [each for each in zip(names, shape, strict=True) if each[0] != TOKENS]
    sketch = Sketch(
        dims=" ".join((TOKENS, *(name for name, _ in others))),
        width=prod(length for _, length in others),
        seed=seed,
    )
    axis = names.index(TOKENS)
    before, tokens, after = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
    signs = _signs(sketch.width, seed, dtype)
    if before == 1:
        return _Way(sketch=sketch, shape=(tokens, after), signs=signs)
    return _Way(
        sketch=sketch,
        shape=(before, tokens, after),
        signs=signs.reshape(before, after, PROJECTIONS),
    )


class Sketching:
    """A sink that keeps sketches and no tensor, so none need be copied for it.

    Args:
        multiply: makes the product of two matrices.
    """

    borrows: ClassVar[bool] = True

    def __init__(self, multiply: Product = product) -> None:
        self.seen: dict[Site, CapturedTensor] = {}
        self.multiply = multiply

    def __call__(self, site: Site, tensor: CapturedTensor, /) -> None:
        """Take one tensor."""
        found = sketched(site, tensor, multiply=self.multiply)
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
def _signs(width: int, seed: int, dtype: type) -> Array:
    """Return (width, projections) of -1 and 1, the same for ever: SHAKE-256's bits."""
    stream = hashlib.shake_256(f"pytest-falsify sketch {seed} {width}".encode())
    bits = np.unpackbits(np.frombuffer(stream.digest(width * PROJECTIONS // 8), np.uint8))
    signs: Array = (2.0 * bits - 1.0).astype(dtype).reshape(width, PROJECTIONS)
    return signs
