"""Decode steps taken together: one step alone has too few rows to judge."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from pytest_falsify.compare.rows import RowSums, joined
from pytest_falsify.compare.statistics import PairStatistics, merge_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_falsify.compare.comparison import SiteComparison


class Pool(NamedTuple):
    """One site, or one layer's stage at several decode steps.

    Attributes:
        steps: in the order of the steps.
        total: over all of them.
        rows: one step's after the other's.
    """

    steps: tuple[SiteComparison, ...]
    total: PairStatistics
    rows: RowSums

    @classmethod
    def of(cls, steps: Sequence[SiteComparison | None]) -> Pool:
        """Pool the steps that there are."""
        shown = tuple(each for each in steps if each is not None)
        if len(shown) == 1:
            return cls(shown, shown[0].total, shown[0].rows)
        rows = joined([each.rows for each in shown])
        return cls(shown, merge_all(each.total for each in shown), rows)

    @property
    def sizes(self) -> list[int]:
        """How many rows each step has."""
        return [len(each.rows) for each in self.steps]

    def place(self, row: int) -> tuple[SiteComparison, int]:
        """Return the step that a row belongs to, and its index there."""
        ends = list(accumulate(self.sizes))
        step = bisect_right(ends, row)
        return self.steps[step], row - ends[step] + len(self.steps[step].rows)


def pools(sites: Iterable[SiteComparison]) -> Iterator[Pool]:
    """Yield sites alone or pooled: no token may be in two steps of a pool, as it is in a cache."""
    steps: dict[tuple[int | None, str], list[SiteComparison]] = {}
    for each in sites:
        if each.site.step == 0:
            yield Pool.of([each])
        else:
            steps.setdefault((each.site.layer, each.site.stage), []).append(each)
    for group in steps.values():
        tokens = [token for each in group for token in each.positions]
        parts = [group] if len(set(tokens)) == len(tokens) else [[each] for each in group]
        yield from map(Pool.of, parts)
