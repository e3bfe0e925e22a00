"""What becomes of a cache's values on the way, and how far they may be off where they arrive.

A codec declares its bound: for every value that was sent, how far the received one may lie from
it. A fault can stay within such a bound (a scale that is 3 % off within fp8's 6 %), so heads are
also judged by the factor that fits them best: see ``legs.transferred``.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from pytest_falsify.compare.noise import unit_roundoff
from pytest_falsify.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Parts = dict[str, torch.Tensor]

VALUES, SCALE = "values", "scale"
HEAD, CHANNEL = "head", "channel"
CASTS = ("float32", "bfloat16", "float16")
QUANTISED = {"int8": 127.0, "fp8": 448.0}
"""The largest magnitude of each quantised dtype; fp8 is e4m3fn."""
_FP8 = ml_dtypes.finfo(ml_dtypes.float8_e4m3fn)


@runtime_checkable
class Codec(Protocol):
    """A way to write a cache. A tensor is (key heads, tokens, channels).

    A codec of which every bit arrives has an attribute ``is_exact`` that is true.
    """

    def encode(self, tensor: torch.Tensor) -> Parts:
        """Return what is sent: ``values``, with a token axis in the middle, and what belongs to it.

        Whatever is not called ``values`` is sent as it is, never cut into blocks.
        """

    def decode(self, parts: Parts) -> torch.Tensor:
        """Return what was sent, or nearly so."""

    def bound(self, sent: Array) -> Array:
        """Return how far each received value may be from the one that was sent.

        Args:
            sent: (tokens, key heads, channels) float64.
        """


class Identity:
    """Every bit arrives."""

    is_exact: ClassVar[bool] = True

    def encode(self, tensor: torch.Tensor) -> Parts:
        """See ``Codec``."""
        return {VALUES: tensor}

    def decode(self, parts: Parts) -> torch.Tensor:
        """See ``Codec``."""
        return parts[VALUES]

    def bound(self, sent: Array) -> Array:
        """See ``Codec``."""
        return np.zeros(sent.shape)


@dataclass(frozen=True, slots=True)
class Cast:
    """Values travel in another float dtype: off by one rounding each."""

    dtype: str

    def encode(self, tensor: torch.Tensor) -> Parts:
        """See ``Codec``."""
        import torch

        return {VALUES: tensor.to(getattr(torch, self.dtype))}

    def decode(self, parts: Parts) -> torch.Tensor:
        """See ``Codec``."""
        return parts[VALUES]

    def bound(self, sent: Array) -> Array:
        """See ``Codec``."""
        return rounding(sent, self.dtype)


@dataclass(frozen=True, slots=True)
class Quantised:
    """Values travel as int8 or fp8 with a scale a head, or a scale a channel of a head.

    Attributes:
        dtype: ``int8`` or ``fp8``.
        per: ``HEAD`` or ``CHANNEL``.
    """

    dtype: str
    per: str = HEAD
    _AXES: ClassVar[Mapping[str, tuple[int, ...]]] = {HEAD: (1, 2), CHANNEL: (1,)}

    def encode(self, tensor: torch.Tensor) -> Parts:
        """See ``Codec``."""
        import torch

        wide = tensor.float()
        largest = wide.abs().amax(self._AXES[self.per], keepdim=True)
        scale = torch.where(largest > 0, largest / QUANTISED[self.dtype], 1.0)
        scaled = wide / scale
        if self.dtype == "int8":
            return {VALUES: scaled.round().clamp(-127, 127).to(torch.int8), SCALE: scale}
        return {VALUES: scaled.clamp(-448, 448).to(torch.float8_e4m3fn), SCALE: scale}

    def decode(self, parts: Parts) -> torch.Tensor:
        """See ``Codec``."""
        return parts[VALUES].float() * parts[SCALE]

    def bound(self, sent: Array) -> Array:
        """See ``Codec``: half a step of int8; half a unit in the last place of fp8.

        Dividing by the scale and multiplying with it round in float32 as well.
        """
        axes = {HEAD: (0, 2), CHANNEL: (0,)}[self.per]
        largest = np.abs(sent).max(axis=axes, keepdims=True, initial=0.0)
        scale = largest / QUANTISED[self.dtype]
        if self.dtype == "int8":
            step = np.broadcast_to(scale / 2, sent.shape)
        else:
            smallest = float(_FP8.smallest_subnormal) / 2
            step = np.maximum(np.abs(sent) * float(_FP8.eps) / 2, scale * smallest)
        bound: Array = step + 4 * unit_roundoff(np.float32) * largest
        return bound


def rounding(sent: Array, dtype: str) -> Array:
    """Return the largest error of one rounding of each value to a float dtype."""
    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    subnormal = float(ml_dtypes.finfo(kind).smallest_subnormal)
    bound: Array = np.abs(sent) * unit_roundoff(kind) + subnormal / 2
    return bound


def codec_named(name: str, *, per: str = HEAD) -> Codec:
    """Return a codec: ``identity``, a float dtype, ``int8``, ``fp8``, or ``module:attribute``.

    Args:
        name: which one.
        per: what a scale belongs to.

    Raises:
        ContractError: when there is none.
    """
    if name == "identity":
        return Identity()
    if name in CASTS:
        return Cast(name)
    if name in QUANTISED:
        return Quantised(name, per)
    found = loaded(name)
    codec = found() if isinstance(found, type) else found
    if not isinstance(codec, Codec):
        msg = f"`{name}` is no codec"
        raise ContractError(msg, expected="an object with encode, decode and bound")
    return codec


def loaded(name: str) -> Any:
    """Return what ``module:attribute`` names.

    Raises:
        ContractError: when it cannot be imported, or is not there.
    """
    module, colon, attribute = name.partition(":")
    try:
        if colon:
            return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        msg = f"`{name}` cannot be loaded: {error}"
        raise ContractError(
            msg, expected="module:attribute, importable where pytest runs"
        ) from error
    msg = f"`{name}` is not known here"
    raise ContractError(msg, expected="module:attribute, importable where pytest runs")
