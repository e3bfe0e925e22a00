"""A few numbers of every tensor instead of the tensor: what a first look at a run needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from math import frexp, isfinite, ldexp, sqrt
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.captures.capture import Capture, CapturedTensor
    from pytest_falsify.stages.vocabulary import Site

    Array = np.ndarray[Any, Any]

_BLOCK = 256
_WIDE = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Numbers of one tensor; but for the first three, of its finite values.

    Attributes:
        shape: the lengths of the axes.
        dtype: NumPy's name.
        nonfinite: how many values are NaN or infinite.
        mean: the sum over the count.
        rms: the root of the mean square; 0 when there is no finite value, like all the others.
    """

    shape: tuple[int, ...]
    dtype: str
    nonfinite: int
    mean: float
    rms: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, tensor: CapturedTensor) -> Summary:
        """Return the numbers of a tensor, summed in the dtype that holds it, float32 at least."""
        array = tensor.array
        values = np.ascontiguousarray(array).reshape(-1)
        if array.dtype not in _WIDE:
            values = values.astype(np.float32)
        squares, unit = float(np.vdot(values, values)), 1.0
        if not isfinite(squares):
            values = values[np.isfinite(values)].astype(np.float64)
            unit = _power_of_two(float(np.abs(values).max(initial=0.0)))
            values /= unit
            squares = float(np.vdot(values, values))
        count = max(values.size, 1)
        return cls(
            shape=array.shape,
            dtype=_name(array.dtype),
            nonfinite=array.size - values.size,
            mean=_sum(values) / count * unit,
            rms=sqrt(squares / count) * unit,
            smallest=float(values.min()) * unit if values.size else 0.0,
            largest=float(values.max()) * unit if values.size else 0.0,
        )


def _power_of_two(value: float) -> float:
    """Return the power of two at or below a value: dividing by it is exact and squares fit."""
    return ldexp(1.0, frexp(value)[1] - 1) if value else 1.0


def _sum(values: Array) -> float:
    """Return a sum by blocks: BLAS is faster than NumPy, and its blocks are summed in float64."""
    whole = values.size // _BLOCK * _BLOCK
    blocks = values[:whole].reshape(-1, _BLOCK) @ _ones(values.dtype)
    rest = values[whole:].sum(dtype=np.float64) if whole < values.size else 0.0
    return float(blocks.sum(dtype=np.float64) + rest)


@lru_cache(maxsize=32)
def _name(dtype: np.dtype[Any]) -> str:
    return dtype.name  # which NumPy makes anew each time


@lru_cache(maxsize=2)
def _ones(dtype: np.dtype[Any]) -> Array:
    return np.ones(_BLOCK, dtype)


def summaries_to_json(summaries: Mapping[Site, Summary]) -> list[dict[str, Any]]:
    """Return the numbers of each site as a program reads them, in the order given."""
    return [{"site": str(site), **asdict(each)} for site, each in summaries.items()]


class Summarising:
    """A sink that keeps numbers and no tensor, so none need be copied for it."""

    borrows: ClassVar[bool] = True

    def __init__(self) -> None:
        self.seen: dict[Site, Summary] = {}

    def __call__(self, site: Site, tensor: CapturedTensor, /) -> None:
        """Take one tensor."""
        self.seen[site] = Summary.of(tensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """The numbers of a run.

    Attributes:
        run: how they came to be: a capture without tensors and without logits.
        sites: in causal order.
    """

    run: Capture
    sites: Mapping[Site, Summary]
