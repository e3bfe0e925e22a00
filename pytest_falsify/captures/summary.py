"""A few numbers of every tensor instead of the tensor: what a first look at a run needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pytest_falsify.canonical import canonical_text
from pytest_falsify.captures.new_folder import new_folder, sync

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_falsify.captures.capture import Capture, CapturedTensor
    from pytest_falsify.stages.vocabulary import Site

    Array = np.ndarray[Any, Any]

SUMMARY = "statistics.json"
_BLOCK = 256
_WIDE = (np.dtype(np.float32), np.dtype(np.float64))
SCHEMA = "urn:pytest-falsify:schema:statistics-v1"


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
        squares = float(np.vdot(values, values))
        nonfinite = 0
        if not isfinite(squares):
            finite = values[np.isfinite(values)].astype(np.float64)
            nonfinite, values = int(values.size - finite.size), finite
            squares = float(np.vdot(values, values))
        count = max(values.size, 1)
        return cls(
            shape=array.shape,
            dtype=_name(array.dtype),
            nonfinite=nonfinite,
            mean=_sum(values) / count,
            rms=sqrt(squares / count),
            smallest=float(values.min()) if values.size else 0.0,
            largest=float(values.max()) if values.size else 0.0,
        )


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


class Summarising:
    """A sink that keeps numbers and no tensor, so none need be copied for it."""

    borrows: ClassVar[bool] = True

    def __init__(self) -> None:
        self.seen: dict[Site, Summary] = {}

    def __call__(self, site: Site, tensor: CapturedTensor, /) -> None:
        """Take one tensor."""
        self.seen[site] = Summary.of(tensor)


def write_summaries(
    capture: Capture, summaries: Mapping[Site, Summary], folder: Path, *, replace: bool = False
) -> None:
    """Write the numbers of a run into a folder of their own, whole or not at all.

    Args:
        capture: how they came to be; its tensors are not looked at.
        summaries: by site.
        folder: the folder to be.
        replace: let numbers that are already there give way.

    Raises:
        CaptureError: when something else is there.
    """
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "identity": capture.identity.digest,
        "inputs": capture.inputs.digest,
        "plan": capture.plan.to_json(),
        "sites": {str(site): _json(each) for site, each in summaries.items()},
    }
    with new_folder(folder, replaces=is_summary if replace else None) as temporary:
        (temporary / SUMMARY).write_text(canonical_text(body), encoding="utf-8")
        sync(temporary / SUMMARY)


def is_summary(path: Path) -> bool:
    """Tell whether a folder holds the numbers of a run."""
    return (path / SUMMARY).is_file()


def _json(summary: Summary) -> dict[str, Any]:
    return {**asdict(summary), "shape": list(summary.shape)}
