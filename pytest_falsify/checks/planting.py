"""Shows that a check that held could have failed: faults planted in copies of what it saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_falsify.compare.faults import Planted, plant_all, smallest_caught

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_falsify.captures.capture import Capture, CapturedTensor
    from pytest_falsify.checks.base import Compare
    from pytest_falsify.compare.comparison import Comparison
    from pytest_falsify.stages.vocabulary import Site

MAX_VALUES = 1 << 24
"""In how many values faults are planted at most; beyond, sites are chosen evenly."""
MEASURED_SITES = 4
"""At how many sites the smallest fault is searched for."""

Refutes = Callable[["Comparison"], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A subject and its oracle on one input, and what the check says of their comparison."""

    subject: Capture
    oracle: Capture
    compare: Compare
    refutes: Refutes

    def refutes_at(self, site: Site, tensor: CapturedTensor) -> bool:
        """Tell whether the check refutes a subject with this tensor at this site.

        It sees no other site but those that it judges together with this one: see ``pools``.
        """
        together = _judged_together(site, self.subject)
        mine = {each: self.subject.tensors[each] for each in together} | {site: tensor}
        subject = replace(self.subject, tensors=mine, missing=())
        theirs = {each: self.oracle.tensors[each] for each in together}
        oracle = replace(self.oracle, tensors=theirs, missing=())
        return self.refutes(self.compare(subject, oracle))


def plant(pairs: Iterable[Pair]) -> dict[str, Any]:
    """Plant every fault that can exist in every pair, and return what the check made of them.

    Returns:
        ``planted`` and ``caught``; ``missed``, the names of what slipped through, where something
        did; ``smallest_caught``, the smallest relative disturbance that is refuted wherever it
        was tried (None: even one as large as the tensor passes), and the same in one row alone.
    """
    found = tuple(pairs)
    results = [_plant_in(pair) for pair in found]
    missed = sorted({name for result in results for name, _ in result.missed})
    faults: dict[str, Any] = {
        "planted": sum(result.planted for result in results),
        "caught": sum(result.caught for result in results),
        "smallest_caught": _weakest(found, row=False),
        "smallest_caught_in_a_row": _weakest(found, row=True),
    }
    return {**faults, "missed": missed} if missed else faults


def _judged_together(site: Site, capture: Capture) -> Sequence[Site]:
    """Return the decode steps of a site's stage and layer, in order, or the site alone."""
    if site.step <= 0:
        return [site]
    return [
        each
        for each in capture.tensors
        if each.step > 0 and (each.layer, each.stage) == (site.layer, site.stage)
    ]


def _plant_in(pair: Pair) -> Planted:
    chosen = spread(tuple(pair.subject.tensors), sizes=_sizes(pair.subject))
    return plant_all(pair.subject, pair.refutes_at, sites=chosen)


def _weakest(pairs: Sequence[Pair], *, row: bool) -> float | None:
    found = [
        smallest_caught(pair.subject, site, pair.refutes_at, row=row)
        for pair in pairs
        for site in _few(tuple(pair.subject.tensors))
    ]
    sizes = [size for size in found if size is not None]
    return max(sizes) if sizes and len(sizes) == len(found) else None


def _few(sites: Sequence[Site]) -> Sequence[Site]:
    return _evenly(sites, MEASURED_SITES)


def spread(sites: Sequence[Site], *, sizes: Sequence[int]) -> Sequence[Site]:
    """Return as many sites as the budget allows, evenly over the forward pass, ends included."""
    total = sum(sizes)
    if total <= MAX_VALUES:
        return sites
    return _evenly(sites, max(2, len(sites) * MAX_VALUES // total))


def _evenly(sites: Sequence[Site], count: int) -> Sequence[Site]:
    if len(sites) <= count:
        return sites
    last = len(sites) - 1
    return [sites[round(index * last / (count - 1))] for index in range(count)]


def _sizes(capture: Capture) -> list[int]:
    return [int(each.array.size) for each in capture.tensors.values()]
