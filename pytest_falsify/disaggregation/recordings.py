"""What other tools recorded of disaggregated runs without values: traces, and reports of batches.

A trace is JSON: it holds only what its writer computed, so
nothing can be compared again; it is put into causal order, and what it could not have told is
undecided. A report of a batch is JSON too: which samples' texts differ, and a text names no leg.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.canonical import parse_json
from pytest_falsify.compare.rates import Rate
from pytest_falsify.disaggregation.legs import Leg
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import TRANSFER, Site
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LEGS = {
    "prefill": Leg.PREFILL,
    "kv_transfer": Leg.TRANSFER,
    "decode_step": Leg.DECODE,
}
NEWEST_REPORT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """One comparison that a trace tells of.

    Attributes:
        step: of decode, counted from 1; 0 of the prefill, ``TRANSFER`` of the transfer.
        field: what was compared.
        is_beyond: whether it goes beyond its threshold; what is not finite does.
    """

    leg: Leg
    layer: int
    step: int
    field: str
    max_abs: float
    cosine: float
    threshold: float

    @property
    def is_beyond(self) -> bool:
        """Whether the largest difference is not within the threshold."""
        return not self.max_abs <= self.threshold

    @property
    def order(self) -> tuple[int, int, int]:
        """The key that sorts by what happens first."""
        return list(Leg).index(self.leg), self.step, self.layer


def leg_of(site: Site) -> Leg:
    """Return the leg that a site belongs to."""
    if site.step == TRANSFER:
        return Leg.TRANSFER
    return Leg.PREFILL if site.step == 0 else Leg.DECODE


def read_json(path: Path) -> tuple[Traced, ...] | Rate | None:
    """Read a trace, in the order in which things happen, or the rate of a batch's divergences.

    Returns:
        The trace or the rate; None of a batch without samples.

    Raises:
        CaptureError: when it is neither.
    """
    try:
        body = parse_json(path.read_text(encoding="utf-8"))
        if "results" in body:
            return _rate(body, path)
        found = [_traced(each) for each in body["comparisons"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"it is neither a trace nor a report: {type(error).__name__}: {error}"
        raise CaptureError(
            msg, path=path, expected="JSON with `comparisons`, or with `results`"
        ) from error
    return tuple(sorted(found, key=lambda each: each.order))


def _rate(body: Mapping[str, Any], path: Path) -> Rate | None:
    version = body.get("schema_version", 1)
    if version > NEWEST_REPORT:
        msg = f"the report is of version {version}"
        raise CaptureError(msg, path=path, expected=f"at most {NEWEST_REPORT}")
    results = [each["exact_match"] is True for each in body["results"]]
    if len(results) != body["total_samples"]:
        told = number_of(len(results), "sample")
        msg = f"the report tells of {told} and counts {body['total_samples']}"
        raise CaptureError(msg, path=path, expected="every sample, once")
    return Rate(count=results.count(False), total=len(results)) if results else None


def _traced(body: Mapping[str, Any]) -> Traced:
    leg = LEGS[body["hook_point"]]
    step = {Leg.PREFILL: 0, Leg.TRANSFER: TRANSFER}.get(leg)
    return Traced(
        leg=leg,
        layer=int(body["layer"]),
        step=int(body["step"]) + 1 if step is None else step,
        field=str(body["field_name"]),
        max_abs=_number(body["max_abs_diff"]),
        cosine=_number(body["cosine_similarity"]),
        threshold=_number(body["threshold"]),
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
