"""The rows of a trace: each site of each leg, and whether it is beyond what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.checks.verdict import finite
from pytest_falsify.compare.noise import Judgement
from pytest_falsify.disaggregation.legs import Leg, arrived, transferred
from pytest_falsify.disaggregation.recordings import leg_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_falsify.checks.base import Compare
    from pytest_falsify.checks.kv import Legs
    from pytest_falsify.checks.verdict import Judged
    from pytest_falsify.compare.comparison import Comparison
    from pytest_falsify.disaggregation.recordings import Traced
    from pytest_falsify.stages.vocabulary import Site

    Row = dict[str, Any]
    Places = Mapping[Site, Mapping[str, int]]


def of_judged(judged: Judged) -> Iterator[Row]:
    """Yield the rows of two captures that were compared and judged."""
    return _rows(judged.comparison, _places(judged))


def of_traced(each: Traced) -> Row:
    """Return the row of one comparison that a trace of the field tells of."""
    numbers = {"max_abs": finite(each.max_abs), "cosine": finite(each.cosine)}
    row = _row(each.leg, each.step, each.layer, each.field, numbers)
    return {**row, "is_beyond": each.is_beyond}


def of_legs(legs: Legs, compare: Compare) -> Iterator[Row]:
    """Yield the rows of one input: each leg against what it should have made of what it was given.

    What a leg only inherited is not marked.
    """
    by_leg = {each.label: each for each in legs.judged}
    for leg in Leg:
        if leg is Leg.TRANSFER:
            excesses = transferred(legs.subject)
            yield from _rows(
                compare(*arrived(legs.subject)),
                {each.site: _place(k=each.head, t=each.position) for each in excesses},
            )
        else:
            judged = by_leg[leg.value]
            places = _places(judged) if leg in legs.guilty else {}
            yield from _rows(judged.comparison, places)


def _places(judged: Judged) -> dict[Site, Mapping[str, int]]:
    """Return where each site that is beyond is so."""
    bugs = {each.site: each.row_position for each in judged.beyond(Judgement.BUG)}
    return bugs | {each.site: each.position for each in judged.violations}


def _place(**axes: int | None) -> dict[str, int]:
    return {name: index for name, index in axes.items() if index is not None}


def _rows(comparison: Comparison, beyond: Places) -> Iterator[Row]:
    for each in comparison.sites:
        site = each.site
        numbers = {
            "rel_l2": finite(each.total.rel_l2),
            "worst_row": finite(each.worst_row.rel_l2),
            "max_abs": finite(each.total.max_abs),
            "cosine": finite(each.total.cosine),
        }
        row = _row(leg_of(site), site.step, site.layer, site.stage, numbers)
        yield {**row, "at": dict(beyond.get(site, {})), "is_beyond": site in beyond}


def _row(leg: Leg, step: int, layer: int | None, what: str, numbers: Mapping[str, Any]) -> Row:
    unknown = dict.fromkeys(("rel_l2", "worst_row", "max_abs", "cosine"))
    place = {"leg": leg.value, "step": max(step, 0), "layer": layer, "what": what}
    return {**place, **unknown, **numbers, "at": {}, "is_beyond": False}
