"""The numbers of a site that a contract can limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_falsify.compare.comparison import SiteComparison
    from pytest_falsify.compare.tally import Tolerance

    Observe = Callable[[SiteComparison, Tolerance | None], float]
    Place = Callable[[SiteComparison], Mapping[str, int]]


def of_total(name: str) -> Observe:
    """Return what reads a number of the whole tensor."""
    return lambda site, _tolerance: float(getattr(site.total, name))


def _exceeding(site: SiteComparison, tolerance: Tolerance | None) -> float:
    """Return how many values go beyond a tolerance; infinite where that was not counted."""
    counts = {} if site.total.tally is None else site.total.tally.exceeds
    return inf if tolerance is None else counts.get(tolerance, inf)


def _largest(site: SiteComparison) -> Mapping[str, int]:
    return site.largest_position


def _farthest(site: SiteComparison) -> Mapping[str, int]:
    return site.row_position(int(site.rows.column("max_ulp").argmax()))


def _first_mismatch(site: SiteComparison) -> Mapping[str, int]:
    return site.row_position(int((site.rows.column("mismatched") > 0).argmax()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that a contract can limit.

    Attributes:
        sides: the limits that mean something: ``max``, ``min`` or both.
        bounds: JSON Schema of a limit: beyond them every subject keeps it, or none can.
        observe: its value at a site, for a tolerance if it has one.
        place: where to look: the worst row unless it says otherwise.
        centre: the value it has for a perfect subject; tolerances are rounded from there.
        has_tolerance: whether ``atol`` and ``rtol`` stand beside its limit.
        is_estimable: whether sketches of the tensors tell it, within their stated error.
    """

    description: str
    observe: Observe
    sides: tuple[str, ...] = ("max",)
    bounds: Mapping[str, float] = field(default_factory=lambda: {"minimum": 0})
    place: Place = lambda site: site.worst_position
    centre: int = 0
    has_tolerance: bool = False
    is_estimable: bool = False


METRICS: Mapping[str, Metric] = {
    "rel_l2": Metric(
        description="|subject - oracle| / |oracle| over the whole tensor",
        observe=of_total("rel_l2"),
        is_estimable=True,
    ),
    "worst_row": Metric(
        description="the relative L2 error of the worst row: one token, one head of one token",
        observe=lambda site, _: site.worst_row.rel_l2,
        is_estimable=True,
    ),
    "cosine": Metric(
        description="the cosine of the angle between subject and oracle; blind to scale",
        observe=of_total("cosine"),
        sides=("min",),
        bounds={"exclusiveMinimum": -1, "maximum": 1},
        centre=1,
    ),
    "scale": Metric(
        description="the factor by which the oracle fits the subject best",
        observe=of_total("scale"),
        sides=("min", "max"),
        bounds={},
        centre=1,
    ),
    "max_abs": Metric(
        description="the largest absolute difference",
        observe=of_total("max_abs"),
        place=_largest,
    ),
    "mean_abs": Metric(
        description="the mean absolute difference",
        observe=of_total("mean_abs"),
    ),
    "nmse_db": Metric(
        description="the relative L2 error in decibels: 20 log10",
        observe=of_total("nmse_db"),
        bounds={},
        is_estimable=True,
    ),
    "ulp": Metric(
        description="the largest difference in units in the last place of the coarser dtype",
        observe=of_total("max_ulp"),
        place=_farthest,
    ),
    "mismatched": Metric(
        description="how many values differ in their bits",
        observe=of_total("mismatched"),
        place=_first_mismatch,
    ),
    "exceeds": Metric(
        description="how many values have |subject - oracle| > atol + rtol |oracle|",
        observe=_exceeding,
        place=_largest,
        has_tolerance=True,
    ),
}
