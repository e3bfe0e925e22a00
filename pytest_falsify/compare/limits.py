"""Thresholds: what a contract allows, what goes beyond it, and what would have passed."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context, Decimal, localcontext
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from pytest_falsify.compare.metrics import METRICS, Metric
from pytest_falsify.compare.tally import Tolerance
from pytest_falsify.errors import AlignmentError, ContractError
from pytest_falsify.stages.vocabulary import STAGES, canonical

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_falsify.compare.comparison import Comparison, SiteComparison
    from pytest_falsify.stages.vocabulary import Site


STAGES_KEY = "stages"
TOLERANCE = ("atol", "rtol")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One bound of one metric: ``side`` is ``max`` or ``min``; ``exceeds`` has a tolerance."""

    metric: str
    side: str
    value: float
    tolerance: Tolerance | None = None

    def observed(self, site: SiteComparison) -> float:
        """Return the metric's value at a site."""
        return METRICS[self.metric].observe(site, self.tolerance)

    def allows(self, observed: float) -> bool:
        """Tell whether a value is within the limit; NaN never is."""
        return observed <= self.value if self.side == "max" else observed >= self.value

    def __str__(self) -> str:
        beside = "" if self.tolerance is None else f"{self.tolerance}, "
        return f"{self.metric}: {{{beside}{self.side}: {self.value:.6g}}}"


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

    @property
    def tolerances(self) -> tuple[Tolerance, ...]:
        """What has to be counted before these limits can be judged: see ``counting``."""
        every = (self.default, *self.stages.values())
        return tuple({each.tolerance for limits in every for each in limits if each.tolerance})


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
        none = f"no limit of {', '.join(self.hopeless)}"
        return f"{_flow(self.value)}; {none}" if self.value else none


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
            group.setdefault(limit.metric, _beside(limit))[limit.side] = tolerance
    return Tolerances(value=value, hopeless=tuple(dict.fromkeys(hopeless)))


def _beside(limit: Limit) -> dict[str, float]:
    tolerance = limit.tolerance
    return {} if tolerance is None else {"atol": tolerance.atol, "rtol": tolerance.rtol}


def _violation(site: SiteComparison, limit: Limit) -> Violation | None:
    if site.is_estimate and not METRICS[limit.metric].is_estimable:
        msg = f"{site.site}: `{limit.metric}` cannot be told from a sketch"
        known = ", ".join(name for name, each in METRICS.items() if each.is_estimable)
        raise AlignmentError(msg, expected=f"one of {known}, or captures with their tensors")
    observed = limit.observed(site)
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
    found = [limit.observed(site) for site in sites]
    if not all(site.total.is_sound for site in sites) or not all(each < inf for each in found):
        return None
    worst = max(found) if limit.side == "max" else min(found)
    if not isfinite(worst):
        return limit.value
    tightest = _rounded(worst, metric.centre, limit.side)
    return tightest if _can_decide(tightest, metric.bounds) else None


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
    beside = TOLERANCE if metric.has_tolerance else ()
    known = {*metric.sides, *beside}
    if not isinstance(sides, dict) or not set(beside) < set(sides) <= known:
        msg = f"`{name}: {sides}` is not a limit"
        names = (*beside, *metric.sides)
        raise ContractError(msg, expected=f"{name}: {{{': ..., '.join(names)}: ...}}")
    for side, value in sides.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
            msg = f"`{name}.{side}: {value}` is not a limit"
            raise ContractError(msg, expected="a finite number")
        if side not in beside and not _can_decide(value, metric.bounds):
            msg = f"`{name}.{side}: {value}` is a limit that every subject keeps, or none can"
            raise ContractError(msg, expected=_spelled(metric.bounds))
        if side in beside and value < 0:
            msg = f"`{name}.{side}: {value}` is negative"
            raise ContractError(msg, expected="a number that is not")
    tolerance = Tolerance(atol=sides["atol"], rtol=sides["rtol"]) if beside else None
    for side in sides:
        if side not in beside:
            yield Limit(metric=name, side=side, value=sides[side], tolerance=tolerance)


def _can_decide(value: float, bounds: Mapping[str, float]) -> bool:
    return (
        value >= bounds.get("minimum", -inf)
        and value > bounds.get("exclusiveMinimum", -inf)
        and value <= bounds.get("maximum", inf)
    )


def _spelled(bounds: Mapping[str, float]) -> str:
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
    return " and ".join(f"{words[name]} {value:g}" for name, value in bounds.items())


def _flow(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:.12g}" if isinstance(value, float) else str(value)
    return "{" + ", ".join(f"{name}: {_flow(inner)}" for name, inner in value.items()) + "}"


def _schema(metric: Metric) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "description": metric.description,
        "properties": {side: {"type": "number", **metric.bounds} for side in metric.sides},
        "additionalProperties": False,
        "minProperties": 1,
    }
    if metric.has_tolerance:
        schema["properties"] |= {name: {"type": "number", "minimum": 0} for name in TOLERANCE}
        schema["required"] = [*TOLERANCE, *metric.sides]
    return schema


_METRIC_SCHEMAS: Mapping[str, Any] = {name: _schema(each) for name, each in METRICS.items()}

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
