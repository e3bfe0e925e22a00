"""The sums of a pair, one row each, as compact arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.compare.statistics import (
    COUNTS,
    SMALLEST_SQUARE,
    SUMS,
    PairStatistics,
    exact_sum,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FLOATS = (*SUMS, "max_abs_d")
INTEGERS = (*COUNTS, "max_ulp", "where")
X2, Y2, D2, ABS_D, D, XD, MAX_ABS_D = range(len(FLOATS))
N, FINITE, NONFINITE_X, NONFINITE_Y, NONFINITE_MISMATCH, MISMATCHED, MAX_ULP, WHERE = range(
    len(INTEGERS)
)

_FLOAT = {name: column for column, name in enumerate(FLOATS)}
_INTEGER = {name: column for column, name in enumerate(INTEGERS)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowSums:
    """The facts of ``PairStatistics`` for every row of a pair of tensors.

    Attributes:
        row_length: how many values a row has.
        floats: (len(FLOATS), rows) float64.
        integers: (len(INTEGERS), rows) int64; ``where`` counts from the start of its row.
    """

    row_length: int
    floats: NDArray[np.float64]
    integers: NDArray[np.int64]

    @classmethod
    def zeros(cls, rows: int, row_length: int) -> RowSums:
        """Return sums to be filled in."""
        return cls(
            row_length=row_length,
            floats=np.zeros((len(FLOATS), rows)),
            integers=np.zeros((len(INTEGERS), rows), np.int64),
        )

    def __len__(self) -> int:
        return int(self.floats.shape[1])

    def column(self, name: str) -> NDArray[Any]:
        """Return one fact of every row, as a view: (rows,)."""
        facts: NDArray[Any] = self.floats if name in _FLOAT else self.integers
        column: NDArray[Any] = facts[_FLOAT[name] if name in _FLOAT else _INTEGER[name]]
        return column

    def row(self, index: int) -> PairStatistics:
        """Return the statistics of one row."""
        return PairStatistics(
            **dict(zip(FLOATS, self.floats[:, index].tolist(), strict=True)),
            **dict(zip(INTEGERS, self.integers[:, index].tolist(), strict=True)),
        )

    def store(self, index: int, statistics: PairStatistics) -> None:
        """Write the statistics of one row."""
        self.floats[:, index] = [getattr(statistics, name) for name in FLOATS]
        self.integers[:, index] = [getattr(statistics, name) for name in INTEGERS]

    def total(self) -> PairStatistics:
        """Return the statistics of all rows; each sum is rounded once, so order does not count."""
        if len(self) == 0:
            return PairStatistics()
        worst = self._worst_difference()
        facts: dict[str, Any] = {
            name: exact_sum(row) for name, row in zip(SUMS, self.floats.tolist(), strict=False)
        }
        facts |= dict(zip(COUNTS, self.integers[: len(COUNTS)].sum(axis=1).tolist(), strict=True))
        return PairStatistics(
            **facts,
            max_ulp=int(self.column("max_ulp").max()),
            max_abs_d=float(self.column("max_abs_d").max()),
            where=worst * self.row_length + int(self.column("where")[worst]),
        )

    def rel_l2(self) -> NDArray[np.float64]:
        """Return ``PairStatistics.rel_l2`` of every row: (rows,)."""
        x2, d2 = self.column("sum_x2"), self.column("sum_d2")
        is_sound = (self.column("n") > 0) & (self.column("nonfinite_mismatch") == 0)
        is_equal = (self.column("max_abs_d") == 0) & (
            (self.column("mismatched") == 0) | (self.column("max_ulp") == 0)
        )
        is_measurable = (np.minimum(x2, d2) >= SMALLEST_SQUARE) & np.isfinite(x2) & np.isfinite(d2)
        error = np.full(len(self), np.inf)
        np.divide(np.sqrt(d2), np.sqrt(x2), out=error, where=is_sound & is_measurable)
        error[is_sound & is_equal] = 0.0
        return error

    def worst(self) -> int:
        """Return the index of the first row with the largest relative L2 error.

        Raises:
            ValueError: when there is no row.
        """
        return int(self.rel_l2().argmax())

    def _worst_difference(self) -> int:
        has_stray = self.column("nonfinite_mismatch") > 0
        if has_stray.any():
            return int(has_stray.argmax())
        return int(self.column("max_abs_d").argmax())


def joined(parts: Sequence[RowSums]) -> RowSums:
    """Return all rows one part after the other; ``row_length`` is the longest."""
    return RowSums(
        row_length=max((part.row_length for part in parts), default=1),
        floats=np.concatenate([np.zeros((len(FLOATS), 0)), *(each.floats for each in parts)], 1),
        integers=np.concatenate(
            [np.zeros((len(INTEGERS), 0), np.int64), *(each.integers for each in parts)], 1
        ),
    )
