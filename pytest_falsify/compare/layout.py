"""What a layout does to a tensor, as data: steps that bring it to the canonical dims.

A step is a small frozen object. A sequence of them is written next to whoever produces the tensor,
and applied before the tensor is aligned: no comparison has a code path for an engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from pytest_falsify.errors import AlignmentError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Never

    from numpy.typing import NDArray

    from pytest_falsify.captures.capture import CapturedTensor

    Array = NDArray[Any]

TOKENS, SOURCES = "t", "s"


class Step(Protocol):
    """One change of layout."""

    def apply(self, tensor: CapturedTensor) -> CapturedTensor:
        """Return the tensor in the new layout.

        Raises:
            AlignmentError: when the tensor does not have the layout that the step expects.
        """


def apply_all(tensor: CapturedTensor, steps: Iterable[Step]) -> CapturedTensor:
    """Return a tensor after some steps, in order."""
    for step in steps:
        tensor = step.apply(tensor)
    return tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rename:
    """Give the axes other names; no value moves."""

    dims: str

    def apply(self, tensor: CapturedTensor) -> CapturedTensor:
        """See ``Step``."""
        names = self.dims.split()
        if len(names) != tensor.array.ndim:
            _refuse(f"the axes are not `{self.dims}`", tensor)
        return replace(tensor, dims=self.dims, positions=_positions(tensor, names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Read the same values as they lie in memory in another order of the same axes.

    Attributes:
        dims: the axes as they really lie, slowest first.
    """

    dims: str

    def apply(self, tensor: CapturedTensor) -> CapturedTensor:
        """See ``Step``."""
        names, shape = tensor.dims.split(), tensor.array.shape
        if sorted(names) != sorted(self.dims.split()) or len(names) != len(shape):
            _refuse(f"the axes are not those of `{self.dims}`", tensor)
        lengths = dict(zip(names, shape, strict=True))
        array = np.ascontiguousarray(tensor.array)
        array = array.reshape([lengths[name] for name in self.dims.split()])
        return replace(tensor, array=array, dims=self.dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reverse:
    """Read a shape that names the fastest axis first, as ggml's `ne` does; no value moves.

    Attributes:
        dims: the axes after the reversal, slowest first.
    """

    dims: str

    def apply(self, tensor: CapturedTensor) -> CapturedTensor:
        """See ``Step``."""
        array = np.ascontiguousarray(tensor.array).reshape(tensor.array.shape[::-1])
        return Rename(dims=self.dims).apply(replace(tensor, array=array))


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Make two axes of one: heads and channels of a packed axis.

    Attributes:
        axis: the packed axis, ``d``.
        into: the outer and the inner axis, ``("h", "d")`` when heads lie one after the other.
        outer: the length of the outer axis.
    """

    axis: str
    into: tuple[str, str]
    outer: int

    def apply(self, tensor: CapturedTensor) -> CapturedTensor:
        """See ``Step``."""
        names, place = _find(tensor, self.axis)
        shape = tensor.array.shape
        if self.outer < 1 or shape[place] % self.outer:
            _refuse(f"`{self.axis}` does not split into {self.outer} equal parts", tensor)
        parts = (self.outer, shape[place] // self.outer)
        array = tensor.array.reshape(*shape[:place], *parts, *shape[place + 1 :])
        names[place : place + 1] = self.into
        return replace(tensor, array=array, dims=" ".join(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Make one axis of two: the opposite of ``Split``, in either order of the two."""

    axes: tuple[str, str]
    into: str

    def apply(self, tensor: CapturedTensor) -> CapturedTensor:
        """See ``Step``."""
        names = tensor.dims.split()
        (_, outer), (_, inner) = (_find(tensor, name) for name in self.axes)
        array = np.moveaxis(tensor.array, (outer, inner), (-2, -1))
        kept = [name for name in names if name not in self.axes]
        array = array.reshape(*array.shape[:-2], array.shape[-2] * array.shape[-1])
        return replace(tensor, array=array, dims=" ".join([*kept, self.into]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Keep a range of one axis: the q, k or v of a fused qkv."""

    axis: str
    start: int
    stop: int

    def apply(self, tensor: CapturedTensor) -> CapturedTensor:
        """See ``Step``."""
        _, place = _find(tensor, self.axis)
        if not 0 <= self.start < self.stop <= tensor.array.shape[place]:
            _refuse(f"`{self.axis}` has no range {self.start}..{self.stop}", tensor)
        kept = (slice(None),) * place + (slice(self.start, self.stop),)
        return replace(tensor, array=tensor.array[kept])


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """Repeat the key/value heads for the query heads that share them.

    Attributes:
        axis: the heads that are shared, ``k``.
        into: the heads that share them, ``h``.
        times: how many share one.
        adjacent: whether those that share one stand together (0 0 1 1), as in grouped-query
            attention, or apart (0 1 0 1).
    """

    axis: str
    into: str
    times: int
    adjacent: bool = True

    def apply(self, tensor: CapturedTensor) -> CapturedTensor:
        """See ``Step``."""
        names, place = _find(tensor, self.axis)
        length = tensor.array.shape[place]
        order = np.arange(length * self.times)
        order = order // self.times if self.adjacent else order % length
        names[place] = self.into
        return replace(tensor, array=tensor.array.take(order, place), dims=" ".join(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpad:
    """Drop the padding tokens of one side and number the others from 0."""

    count: int
    side: Literal["left", "right"]

    def apply(self, tensor: CapturedTensor) -> CapturedTensor:
        """See ``Step``."""
        length = len(tensor.positions)
        if not 0 <= self.count < length:
            _refuse(f"{self.count} of {length} tokens cannot be padding", tensor)
        kept = slice(self.count, None) if self.side == "left" else slice(0, length - self.count)
        array = tensor.array
        for axis in (TOKENS, SOURCES):
            if axis in tensor.dims.split() and array.shape[_find(tensor, axis)[1]] == length:
                array = array[(slice(None),) * _find(tensor, axis)[1] + (kept,)]
        return replace(tensor, array=array, positions=tuple(range(length - self.count)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """Keep the tokens at some positions, in that order."""

    positions: tuple[int, ...]

    def apply(self, tensor: CapturedTensor) -> CapturedTensor:
        """See ``Step``."""
        _, place = _find(tensor, TOKENS)
        at = {position: index for index, position in enumerate(tensor.positions)}
        absent = [position for position in self.positions if position not in at]
        if absent or not self.positions:
            _refuse(f"there is no token {absent[0] if absent else 'asked for'}", tensor)
        chosen = [at[position] for position in self.positions]
        return replace(tensor, array=tensor.array.take(chosen, place), positions=self.positions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """Fill the places of the future, and only those, with -inf.

    Two sides that leave, zero or fill those places in their own ways are one population afterwards,
    and a large finite filling no longer drowns every honest difference. Source i stands at the
    position that is i before the last source's, which is the last token's.

    Attributes:
        window: how many positions a token sees, itself included; None for all before it.
    """

    window: int | None = None

    def apply(self, tensor: CapturedTensor) -> CapturedTensor:
        """See ``Step``."""
        (_, tokens), (_, sources) = _find(tensor, TOKENS), _find(tensor, SOURCES)
        count = tensor.array.shape[sources]
        last = tensor.positions[-1] if tensor.positions else 0
        source = np.arange(last - count + 1, last + 1)
        ahead = source[np.newaxis, :] - np.asarray(tensor.positions)[:, np.newaxis]
        is_hidden = ahead > 0
        if self.window is not None:
            is_hidden |= ahead <= -self.window
        array = np.moveaxis(tensor.array, (tokens, sources), (-2, -1)).copy()
        array[..., is_hidden] = -np.inf
        moved = np.moveaxis(array, (-2, -1), (tokens, sources))
        return replace(tensor, array=moved, mask=self._name)

    @property
    def _name(self) -> str:
        return "-inf" if self.window is None else f"-inf, window {self.window}"


def fused_qkv(
    part: Literal["q", "k", "v"], *, heads: int, kv_heads: int, head_dim: int
) -> tuple[Step, ...]:
    """Return the steps from a fused ``t d`` (q, then k, then v) to ``t h d`` or ``t k d``."""
    lengths = {"q": heads, "k": kv_heads, "v": kv_heads}
    names = list(lengths)
    start = sum(lengths[name] for name in names[: names.index(part)]) * head_dim
    stop = start + lengths[part] * head_dim
    axis = "h" if part == "q" else "k"
    return (
        Part(axis="d", start=start, stop=stop),
        Split(axis="d", into=(axis, "d"), outer=lengths[part]),
    )


def _positions(tensor: CapturedTensor, names: list[str]) -> tuple[int, ...]:
    """Return the positions along another axis of tokens: those stated, or else from 0."""
    length = tensor.array.shape[names.index(TOKENS)] if TOKENS in names else 0
    stated = tensor.positions
    if TOKENS not in names or len(stated) == length:
        return stated
    if stated != tuple(range(len(stated))):
        _refuse(f"`{' '.join(names)}` would have {length} tokens", tensor)
    return tuple(range(length))


def _find(tensor: CapturedTensor, axis: str) -> tuple[list[str], int]:
    names = tensor.dims.split()
    if axis not in names or len(names) != tensor.array.ndim:
        _refuse(f"no axis `{axis}`", tensor)
    return names, names.index(axis)


def _refuse(what: str, tensor: CapturedTensor) -> Never:
    msg = f"{what}: {tensor.describe()}"
    raise AlignmentError(msg, expected="the layout that the steps were written for")
