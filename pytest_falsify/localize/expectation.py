"""What a contract says about the guilty: none, certain sites, a fault by its name, or a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import ContractError
from pytest_falsify.stages.vocabulary import Site, canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_falsify.localize.chain import Chain, Link

NONE = "none"
COSINE = 0.999
MOST_NAMED = 4
"""How many sites that were not captured are named one by one."""
SITE: Mapping[str, Any] = {
    "type": "string",
    "pattern": r"^\d+/(-|\d+)/[A-Za-z_]+$",
    "description": "step/layer/stage: 0/3/attn_out",
}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "who is guilty; `none` is what one hopes of an engine, a site what one knows",
    "properties": {
        "guilty": {
            "description": "`none`, one site, or all of them in a list",
            "oneOf": [
                {"const": NONE},
                SITE,
                {"type": "array", "items": SITE, "minItems": 1, "uniqueItems": True},
            ],
        },
        "fault": {
            "type": "string",
            "description": "what every guilty operation is found to be: `rope layout`",
        },
        "between": {
            "description": "the neighbours among `stages`, in one layer, between which the cosine "
            "falls below the threshold: where drift is seen, which need not be where it is made",
            "type": "array",
            "items": {"type": "string"},
            "minItems": 2,
            "maxItems": 2,
        },
        "cosine": {
            "type": "number",
            "maximum": 1,
            "description": f"the threshold of `between`; {COSINE}",
        },
    },
    "required": ["guilty"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What is expected of a chain.

    Attributes:
        guilty: the sites, in causal order; none for an engine that is right.
        fault: what each of them is to be named, or None for anything.
        between: a pair of stages that straddles the threshold, or None.
        cosine: the threshold.
    """

    guilty: tuple[Site, ...] = ()
    fault: str | None = None
    between: tuple[str, str] | None = None
    cosine: float = COSINE

    def objections(self, chain: Chain) -> tuple[str, ...]:
        """Return, in words, in what the guilty are not those that were expected."""
        return (*self._wrong_sites(chain), *self._wrong_names(chain))

    def _wrong_sites(self, chain: Chain) -> Sequence[str]:
        found = {each.site: each for each in chain.guilty}
        unexpected = accused(link for site, link in found.items() if site not in self.guilty)
        innocent = [f"{each} is not guilty" for each in self.guilty if each not in found]
        return [*unexpected, *innocent]

    def _wrong_names(self, chain: Chain) -> Sequence[str]:
        if self.fault is None:
            return ()
        return [
            f"{link.site} was to be `{self.fault}`: {explained(link)}"
            for link in chain.guilty
            if link.site in self.guilty and (link.named is None or link.named.fault != self.fault)
        ]


def parse_expectation(stated: Mapping[str, Any]) -> Expectation:
    """Read ``{guilty: none}``, ``{guilty: 0/2/q_post_rope, fault: rope layout}``.

    Raises:
        ContractError: when a fault is expected of nobody.
        FalsifyError: when a site or a stage is not known.
    """
    guilty = stated["guilty"]
    names = () if guilty == NONE else (guilty,) if isinstance(guilty, str) else tuple(guilty)
    sites = sorted(map(Site.parse, names), key=lambda each: each.causal_key)
    if stated.get("fault") and not sites:
        msg = "a fault is expected, and nobody is to be guilty of it"
        raise ContractError(msg, expected="guilty: a site, or no `fault`")
    between = stated.get("between")
    return Expectation(
        guilty=tuple(sites),
        fault=stated.get("fault"),
        between=(canonical(between[0]), canonical(between[1])) if between else None,
        cosine=stated.get("cosine", COSINE),
    )


def accused(links: Iterable[Link]) -> list[str]:
    """Return one sentence for all the guilty that have the same fault."""
    return [f"{told(first)}{and_more(others)}" for first, *others in alike(links)]


def alike(links: Iterable[Link]) -> list[list[Link]]:
    """Return the guilty that have the same fault together, in the order of their first."""
    found: dict[tuple[str, str] | None, list[Link]] = {}
    for each in links:
        fault = None if each.named is None else (each.named.fault, each.named.detail)
        found.setdefault(fault, []).append(each)
    return list(found.values())


def and_more(others: Sequence[Link]) -> str:
    """Return how many others there are, and which is the last."""
    return f", and {len(others)} more up to {others[-1].site}" if others else ""


def told(link: Link) -> str:
    """Return one sentence about a guilty link."""
    where = f"{link.site} is guilty"
    if uncaptured := link.group[:-1]:
        where = f"{link.site}, or {_one_of(uncaptured)} not captured, is guilty"
    return f"{where}: {link.own.reason}; {explained(link)}"


def _one_of(sites: Sequence[Site]) -> str:
    if len(sites) == 1:
        return f"{sites[0]} which was"
    if len(sites) > MOST_NAMED:
        return f"one of the {len(sites)} sites from {sites[0]} to {sites[-1]} which were"
    return f"one of {', '.join(map(str, sites))} which were"


def explained(link: Link) -> str:
    """Return what a guilty link was found to be."""
    return "no known fault explains it" if link.named is None else str(link.named)
