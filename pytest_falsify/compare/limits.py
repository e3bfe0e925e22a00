"""Thresholds: what a contract allows, what goes beyond it, and what would have passed."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context, Decimal, localcontext
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import ContractError
from pytest_falsify.stages.vocabulary import STAGES, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_falsify.compare.comparison import Comparison, SiteComparison
    from pytest_falsify.stages.vocabulary import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that a contract can limit.

    Attributes:
        sides: the limits that mean something: ``max``, ``min`` or both.
        observe: its value at a site.
        place: where to look: the worst row unless it says otherwise.
        centre: the value it has for a perfect subject; tolerances are rounded from there.
    """

    sides: tuple[str, ...]
    observe: Callable[[SiteComparison], float]
    place: Callable[[SiteComparison], Mapping[str, int]] = lambda site: site.worst_position
    centre: int = 0
    description: str


METRICS: Mapping[str, Metric] = {
    "rel_l2": Metric(
        sides=("max",),
        observe=lambda site: site.total.rel_l2,
        description="|subject - oracle| / |oracle| over the whole tensor",
    ),
    "worst_row": Metric(
        sides=("max",),
        observe=lambda site: site.worst_row.rel_l2,
        description="the relative L2 error of the worst row: one token, one head of one token",
    ),
    "cosine": Metric(
        sides=("min",),
        observe=lambda site: site.total.cosine,
        centre=1,
        description="the cosine of the angle between subject and oracle; blind to scale",
    ),
    "scale": Metric(
        sides=("min", "max"),
        observe=lambda site: site.total.scale,
        centre=1,
        description="the factor by which the oracle fits the subject best",
    ),
    "max_abs": Metric(
        sides=("max",),
        observe=lambda site: site.total.max_abs,
        place=lambda site: site.largest_position,
        description="the largest absolute difference",
    ),
    "mean_abs": Metric(
        sides=("max",),
        observe=lambda site: site.total.mean_abs,
        description="the mean absolute difference",
    ),
    "nmse_db": Metric(
        sides=("max",),
        observe=lambda site: site.total.nmse_db,
        description="the relative L2 error in decibels: 20 log10",
    ),
    "ulp": Metric(
        sides=("max",),
        observe=lambda site: site.total.max_ulp,
        place=lambda site: site.row_position(int(site.rows.column("max_ulp").argmax())),
        description="the largest difference in units in the last place of the coarser dtype",
    ),
    "mismatched": Metric(
        sides=("max",),
        observe=lambda site: site.total.mismatched,
        place=lambda site: site.row_position(int((site.rows.column("mismatched") > 0).argmax())),
        description="how many values differ in their bits",
    ),
}
STAGES_KEY = "stages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One bound of one metric: ``side`` is ``max`` or ``min``."""

    metric: str
    side: str
    value: float

    def allows(self, observed: float) -> bool:
        """Tell whether a value is within the limit; NaN never is."""
        return observed <= self.value if self.side == "max" else observed >= self.value

    def __str__(self) -> str:
        return f"{self.metric}: {{{self.side}: {self.value:.6g}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a contract allows.

    Attributes:
        default: the limits of every stage.
        stages: by stage, the limits that take the place of the default's for the same metric.
    """

    default: tuple[Limit, ...]
    stages: Mapping[str, tuple[Limit, ...]] = field(default_factory=dict)

    def of(self, stage: str) -> tuple[Limit, ...]:
        """Return the limits of a stage. Ids are judged by equality, whatever the default says."""
        own = self.stages.get(stage, ())
        if STAGES[stage].is_index:
            stated = tuple(limit for limit in own if limit.metric == "mismatched")
            return stated or (Limit(metric="mismatched", side="max", value=0),)
        replaced = {limit.metric for limit in own}
        return own + tuple(limit for limit in self.default if limit.metric not in replaced)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One limit that one site does not keep.

    Attributes:
        observed: the metric's value; NaN or infinite where it cannot be computed.
        position: the row to look at, or the very element: see ``Metric.place``.
        reason: why no value could have kept the limit, or empty.
    """

    site: Site
    metric: str
    observed: float
    limit: Limit
    position: Mapping[str, int]
    reason: str = ""

    def __str__(self) -> str:
        place = ", ".join(f"{name}={index}" for name, index in self.position.items())
        at = f" at {place}" if place else ""
        if self.reason:
            return f"{self.site}: {self.reason}{at} ({self.limit})"
        beyond = "above" if self.limit.side == "max" else "below"
        return (
            f"{self.site}: {self.metric} {self.observed:.3g} is {beyond} {self.limit.value:.6g}{at}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """The tightest limits that a comparison keeps, in the shape in which a contract states them.

    Attributes:
        value: what to write under ``expect:``, rounded outwards to three digits.
        hopeless: the metrics (and stages) that no limit would let pass.
    """

    value: Mapping[str, Any]
    hopeless: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.hopeless:
            return _flow(self.value)
        return f"{_flow(self.value)}; no limit would pass {', '.join(self.hopeless)}"


def parse_limits(expectation: Mapping[str, Any]) -> Limits:
    """Read limits such as ``{rel_l2: {max: 1e-3}, stages: {attn_scores: {rel_l2: {max: 1e-2}}}}``.

    Raises:
        ContractError: when a metric or a side is unknown, a bound is not a number, or nothing is
            said about the stages in general.
        FalsifyError: when there is no such stage.
    """
    default = tuple(
        limit
        for name, sides in expectation.items()
        if name != STAGES_KEY
        for limit in _parse_metric(name, sides)
    )
    if not default:
        msg = "no limit for every stage"
        raise ContractError(msg, expected=f"at least one of {', '.join(METRICS)}")
    return Limits(
        default=default,
        stages={
            canonical(stage): tuple(
                limit for name, sides in own.items() for limit in _parse_metric(name, sides)
            )
            for stage, own in expectation.get(STAGES_KEY, {}).items()
        },
    )


def violations(comparison: Comparison, limits: Limits) -> tuple[Violation, ...]:
    """Return every limit that a site does not keep, in causal order.

    A site without values, or with a NaN or a stray infinity, keeps no limit at all.
    """
    return tuple(
        broken
        for site in comparison.sites
        for limit in limits.of(site.site.stage)
        if (broken := _violation(site, limit)) is not None
    )


def smallest_passing(comparison: Comparison, limits: Limits) -> Tolerances:
    """Return, for each limit, the tightest value that every site it judges would have kept."""
    value: dict[str, Any] = {}
    hopeless: list[str] = []
    for (stage, limit), sites in _judged_together(comparison, limits).items():
        tolerance = _tolerance(limit, sites)
        if tolerance is None:
            hopeless.append(limit.metric if stage is None else f"{stage}.{limit.metric}")
        else:
            group = (
                value if stage is None else value.setdefault(STAGES_KEY, {}).setdefault(stage, {})
            )
            group.setdefault(limit.metric, {})[limit.side] = tolerance
    return Tolerances(value=value, hopeless=tuple(dict.fromkeys(hopeless)))


def _violation(site: SiteComparison, limit: Limit) -> Violation | None:
    observed = METRICS[limit.metric].observe(site)
    if site.total.is_sound and limit.allows(observed):
        return None
    place = METRICS[limit.metric].place if site.total.is_sound else _stray_position
    return Violation(
        site=site.site,
        metric=limit.metric,
        observed=observed,
        limit=limit,
        position=place(site),
        reason=_unsoundness(site),
    )


def _stray_position(site: SiteComparison) -> Mapping[str, int]:
    return site.largest_position


def _unsoundness(site: SiteComparison) -> str:
    if site.total.is_empty:
        return "nothing was compared"
    stray = site.total.nonfinite_mismatch
    return f"{stray} NaN or unmatched infinite values" if stray else ""


def _judged_together(
    comparison: Comparison, limits: Limits
) -> dict[tuple[str | None, Limit], list[SiteComparison]]:
    """Return each limit with the stage it is stated for (None for all) and the sites it judges."""
    groups: dict[tuple[str | None, Limit], list[SiteComparison]] = {}
    for site in comparison.sites:
        stage = site.site.stage
        for limit in limits.of(stage):
            is_own = limit in limits.stages.get(stage, ()) or limit not in limits.default
            groups.setdefault((stage if is_own else None, limit), []).append(site)
    return groups


def _tolerance(limit: Limit, sites: list[SiteComparison]) -> float | None:
    """Return the tightest bound that all sites keep, or None when there is none."""
    metric = METRICS[limit.metric]
    found = [metric.observe(site) for site in sites]
    if not all(site.total.is_sound for site in sites) or not all(each < inf for each in found):
        return None
    worst = max(found) if limit.side == "max" else min(found)
    return _rounded(worst, metric.centre, limit.side) if isfinite(worst) else limit.value


def _rounded(value: float, centre: int, side: str) -> float:
    """Return a value rounded away from the centre to three digits, exactly on the safe side."""
    sign = 1 if side == "max" else -1
    with localcontext(Context(prec=1100)):
        away = Context(prec=3, rounding=ROUND_CEILING).plus(sign * (Decimal(value) - centre))
        return float(centre + sign * away)


def _parse_metric(name: str, sides: Any) -> Iterator[Limit]:
    metric = METRICS.get(name)
    if metric is None:
        msg = f"unknown metric `{name}`"
        raise ContractError(msg, expected=f"one of {', '.join(METRICS)}")
    if not isinstance(sides, dict) or not sides or not set(sides) <= set(metric.sides):
        msg = f"`{name}: {sides}` is not a limit"
        raise ContractError(msg, expected=f"{name}: {{{': ..., '.join(metric.sides)}: ...}}")
    for side, value in sides.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
            msg = f"`{name}.{side}: {value}` is not a limit"
            raise ContractError(msg, expected="a finite number")
        yield Limit(metric=name, side=side, value=value)


def _flow(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:.12g}" if isinstance(value, float) else str(value)
    return "{" + ", ".join(f"{name}: {_flow(inner)}" for name, inner in value.items()) + "}"


_METRIC_SCHEMAS: Mapping[str, Any] = {
    name: {
        "type": "object",
        "description": metric.description,
        "properties": {side: {"type": "number"} for side in metric.sides},
        "additionalProperties": False,
        "minProperties": 1,
    }
    for name, metric in METRICS.items()
}

LIMITS_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "limits on the metrics of every site; `stages` replaces them for one stage",
    "properties": {
        **_METRIC_SCHEMAS,
        STAGES_KEY: {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": dict(_METRIC_SCHEMAS),
                "additionalProperties": False,
                "minProperties": 1,
            },
        },
    },
    "additionalProperties": False,
    "anyOf": [{"required": [name]} for name in METRICS],
}
"""JSON Schema (draft 2020-12) of what ``parse_limits`` reads."""
