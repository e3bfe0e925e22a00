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

    Args:
        site: whose tensor it is.
        tensor: of a session, or a sketch already.
        seed: of the signs.

    Raises:
        AlignmentError: when the tensor has no axis of tokens.
    """
    if tensor.sketch:
        return tensor
    is_wide = tensor.array.dtype == np.float64
    way = way_of(site.stage, tensor.array.shape, dims=tensor.dims, seed=seed, is_wide=is_wide)
    if way is None:
        return tensor
    return CapturedTensor(
        array=way.projected(tensor.array),
        dims=DIMS,
        positions=tensor.positions,
        mask=tensor.mask,
        sketch=way.sketch,
    )


def way_of(
    stage: str,
    shape: tuple[int, ...],
    *,
    dims: str | None = None,
    seed: int = 0,
    is_wide: bool = False,
) -> Way | None:
    """Return how a tensor is sketched, or None where it is left as it is.

    Args:
        stage: whose tensor it is.
        shape: of the tensor.
        dims: its axes, where they are not those of its stage.
        seed: of the signs.
        is_wide: whether it is float64.

    Raises:
        AlignmentError: when the tensor has no axis of tokens.
    """
    dims = STAGES[stage].dims if dims is None else dims
    if STAGES[stage].is_index:
        return None
    way = _way(dims, shape, seed, np.float64 if is_wide else np.float32)
    if way is None:
        msg = f"{stage} cannot be sketched: dims `{dims}`, shape {'x'.join(map(str, shape))}"
        raise AlignmentError(msg, expected="one axis for each name, and one of them tokens")
    return way if way.sketch.width > PROJECTIONS else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How tensors of some dims, shape and dtype are sketched.

    Attributes:
        sketch: what it makes of them.
        shape: what they are seen as: (before, tokens, after), without the first where it is 1.
        signs: (before, after, projections), likewise.
    """

    sketch: Sketch
    shape: tuple[int, ...]
    signs: Array

    def projected(self, array: Array) -> Array:
        """Return the projections of each token: (tokens, projections).

        What stands before the tokens, as heads may, is summed last, for moving it would be a copy.
        An infinity becomes NaN and not a warning: so it stays visible.
        """
        values = array.reshape(self.shape).astype(self.signs.dtype, copy=False)
        with np.errstate(invalid="ignore", over="ignore"):
            found: Array = values @ self.signs
            return found if self.signs.ndim == len(DIMS.split()) else found.sum(axis=0)


@lru_cache(maxsize=64)
def _way(dims: str, shape: tuple[int, ...], seed: int, dtype: type) -> Way | None:
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
    signs = signs_of(sketch.width, seed, dtype)
    if before == 1:
        return Way(sketch=sketch, shape=(tokens, after), signs=signs)
    return Way(
        sketch=sketch,
        shape=(before, tokens, after),
        signs=signs.reshape(before, after, PROJECTIONS),
    )


class Sketching:
    """A sink that keeps sketches and no tensor, so none need be copied for it.

    An engine that makes sketches faster than NumPy may hand it those in place of tensors.
    """

    borrows: ClassVar[bool] = True
    sketches: ClassVar[bool] = True

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
def signs_of(width: int, seed: int, dtype: type) -> Array:
    """Return (width, projections) of -1 and 1, the same for ever: SHAKE-256's bits."""
    stream = hashlib.shake_256(f"pytest-falsify sketch {seed} {width}".encode())
    bits = np.unpackbits(np.frombuffer(stream.digest(width * PROJECTIONS // 8), np.uint8))
    signs: Array = (2.0 * bits - 1.0).astype(dtype).reshape(width, PROJECTIONS)
    return signs
