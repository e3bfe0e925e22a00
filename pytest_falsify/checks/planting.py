"""Shows that a check that held could have failed: faults planted in copies of what it saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.compare.align import TOKENS
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
RefutesSite = Callable[["Site", "CapturedTensor"], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A subject and its oracle on one input, and what the check says of their comparison."""

    subject: Capture
    oracle: Capture
    compare: Compare
    refutes: Refutes

    def refutes_at(self, steps: Sequence[Site], tensor: CapturedTensor) -> bool:
        """Tell whether the check refutes a subject with this tensor, seeing nothing else.

        Args:
            steps: the site of the tensor, or the decode steps that it is of; see ``_together``.
            tensor: the faulty one.
        """
        parts = _apart(tensor, [self.subject.tensors[each] for each in steps])
        mine = dict(zip(steps, parts, strict=True))
        theirs = {each: self.oracle.tensors[each] for each in steps}
        subject = replace(self.subject, tensors=mine, missing=())
        return self.refutes(self.compare(subject, replace(self.oracle, tensors=theirs, missing=())))

    def joined(self) -> tuple[Capture, RefutesSite]:
        """Return the subject with its decode steps joined, and the check of one of its sites."""
        pools = decode_pools(self.subject)
        tensors = {
            steps[0]: _together([self.subject.tensors[each] for each in steps])
            for steps in pools.values()
        }
        return (
            replace(self.subject, tensors=tensors),
            lambda site, tensor: self.refutes_at(pools[site], tensor),
        )


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


def decode_pools(capture: Capture) -> dict[Site, list[Site]]:
    """Return the sites that are taken as one tensor, by the first of them, in the capture's order.

    A decode step alone has one token: nothing in it can be shifted, and a fault of a few percent
    hides in its noise. What faults an operation has, it has at every step. Steps whose tensors
    grow, or hold the same tokens again, as caches do, stay apart, and so does the prefill.
    """
    groups: dict[tuple[int | None, str], list[Site]] = {}
    for site in capture.tensors:
        if site.step > 0:
            groups.setdefault((site.layer, site.stage), []).append(site)
    pools = {site: [site] for site in capture.tensors}
    for group in groups.values():
        if _is_one([capture.tensors[site] for site in group]):
            pools |= {group[0]: group}
            for site in group[1:]:
                del pools[site]
    return pools


def _is_one(steps: Sequence[CapturedTensor]) -> bool:
    tokens = [token for each in steps for token in each.positions]
    shapes = {(each.dims, _width(each)) for each in steps}
    return len(shapes) == 1 and None not in next(iter(shapes)) and len({*tokens}) == len(tokens)


def _width(tensor: CapturedTensor) -> tuple[int, ...] | None:
    """Return the shape of one token; None where there is no axis of tokens."""
    names = tensor.dims.split()
    shape = zip(names, tensor.array.shape, strict=True)
    return tuple(length for name, length in shape if name != TOKENS) if TOKENS in names else None


def _together(steps: Sequence[CapturedTensor]) -> CapturedTensor:
    if len(steps) == 1:
        return steps[0]
    axis = steps[0].dims.split().index(TOKENS)
    positions = tuple(token for each in steps for token in each.positions)
    array = np.concatenate([each.array for each in steps], axis)
    return replace(steps[0], array=array, positions=positions)


def _apart(tensor: CapturedTensor, steps: Sequence[CapturedTensor]) -> list[CapturedTensor]:
    if len(steps) == 1:
        return [tensor]
    axis = tensor.dims.split().index(TOKENS)
    ends = list(accumulate(len(each.positions) for each in steps))[:-1]
    parts = np.split(tensor.array, ends, axis)
    return [replace(each, array=part) for each, part in zip(steps, parts, strict=True)]


def _plant_in(pair: Pair) -> Planted:
    subject, refutes = pair.joined()
    chosen = spread(tuple(subject.tensors), sizes=_sizes(subject))
    return plant_all(subject, refutes, sites=chosen)


def _weakest(pairs: Sequence[Pair], *, row: bool) -> float | None:
    found = [
        smallest_caught(subject, site, refutes, row=row)
        for subject, refutes in (pair.joined() for pair in pairs)
        for site in _evenly(tuple(subject.tensors), MEASURED_SITES)
    ]
    sizes = [size for size in found if size is not None]
    return max(sizes) if sizes and len(sizes) == len(found) else None


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
