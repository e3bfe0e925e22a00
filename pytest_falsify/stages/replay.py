"""How a stage is reached from what was captured: the shortest way, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping, Sequence

    import torch

    from pytest_falsify.stages.adapter import Way
    from pytest_falsify.stages.vocabulary import Site

    Choice = tuple[Way, tuple[Site, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A stage computed of the nearest stages that were captured.

    Attributes:
        value: the tensor, in the dims of its stage.
        sources: the captured sites that it was computed of, in causal order.
        through: the sites that were not captured and were computed on the way, in causal order.
            Whatever error the value shows is the error of one of these, or of the stage itself.
    """

    value: torch.Tensor
    sources: tuple[Site, ...]
    through: tuple[Site, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What has to be computed to reach a site.

    Attributes:
        steps: the sites to compute and of what, inputs before what needs them; the site is last.
        sources: the captured sites that are read.
    """

    steps: Mapping[Site, Choice]
    sources: frozenset[Site]


def route(
    site: Site, captured: Container[Site], choices: Callable[[Site], Sequence[Choice]]
) -> Route:
    """Return the way to a site that computes the fewest stages which were not captured.

    Args:
        site: what is to be computed; that it was captured itself is not looked at.
        captured: what need not be computed.
        choices: the ways in which a site can be computed, its definition first.
    """
    chosen: dict[Site, Choice] = {}
    cost: dict[Site, int] = {}
    waiting = [site]
    while waiting:  # a stack and no recursion: the caches of a long decode make long chains
        top = waiting[-1]
        options = _direct(choices(top), captured)
        unknown = [each for each in _uncaptured(options, captured) if each not in cost]
        if unknown:
            waiting.extend(unknown)
            continue
        waiting.pop()
        if top not in cost:
            prices = [sum(cost.get(each, 0) for each in sites) for _, sites in options]
            cost[top] = 1 + min(prices)
            chosen[top] = options[prices.index(min(prices))]
    return _needed(site, chosen, captured)


def _direct(options: Sequence[Choice], captured: Container[Site]) -> Sequence[Choice]:
    """Return only the first option that reads what was captured, if there is one."""
    for each in options:
        if all(site in captured for site in each[1]):
            return (each,)
    return options


def _uncaptured(options: Sequence[Choice], captured: Container[Site]) -> Iterator[Site]:
    return (site for _, sites in options for site in sites if site not in captured)


def _needed(site: Site, chosen: dict[Site, Choice], captured: Container[Site]) -> Route:
    needed: set[Site] = {site}
    sources: set[Site] = set()
    for each in reversed(chosen):  # what needs something was chosen after it
        if each in needed:
            for parent in chosen[each][1]:
                (sources if parent in captured else needed).add(parent)
    steps = {each: choice for each, choice in chosen.items() if each in needed}
    return Route(steps=steps, sources=frozenset(sources))
