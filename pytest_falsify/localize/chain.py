"""What a localisation found: one link a site, the guilty set, and where the divergence begins."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from pytest_falsify.compare.comparison import compare_captures, compare_tensors
from pytest_falsify.compare.noise import Judgement, judge_noise
from pytest_falsify.localize.evaluation import context_of, in_stage_order, isolated, judged_sites

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.compare.noise import SiteNoise
    from pytest_falsify.localize.evaluation import Evaluator, Isolated
    from pytest_falsify.localize.naming import Named
    from pytest_falsify.stages.vocabulary import Site

CACHES = ("k_cache", "v_cache")
"""Stages that hand on what they are given; a verdict does not have to name them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One site of the chain.

    Attributes:
        done: the operation done again, and its own error judged.
        total: the subject's relative L2 error against the oracle, or None without one.
        inherited: what of it was there before the operation: its error if it had been done right.
        gain: by how much a right operation makes the error of its inputs larger; None where
            the inputs have none, or there is no oracle.
        named: the known fault that explains the own error, where one was looked for.
    """

    done: Isolated
    total: float | None = None
    inherited: float | None = None
    gain: float | None = None
    named: Named | None = None

    @property
    def site(self) -> Site:
        """Where it stands."""
        return self.done.site

    @property
    def own(self) -> SiteNoise:
        """The operation's own error, judged against its floor."""
        return self.done.own

    @property
    def is_guilty(self) -> bool:
        """Whether its own error is beyond the floor."""
        return self.own.judgement is Judgement.BUG

    @property
    def group(self) -> tuple[Site, ...]:
        """Every site that the verdict is about, in causal order; mere caches are left out."""
        between = (each for each in self.done.there.through if each.stage not in CACHES)
        return (*between, self.site)


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The first site that differs from the oracle beyond noise while its inputs do not.

    Attributes:
        unseen: the sites before it that were not compared; with none of them it is the first.
    """

    site: Site
    unseen: tuple[Site, ...] = ()

    def __str__(self) -> str:
        if not self.unseen:
            return f"the first divergence is {self.site}"
        count, one = len(self.unseen), self.unseen[0]
        missing = f"{one} and {count - 1} more" if count > 1 else str(one)
        return f"the first divergence among the compared is {self.site}; not compared: {missing}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """All links in causal order.

    Attributes:
        missing: the sites that were asked for and not captured, and those that were captured and
            whose operation cannot be done again.
        divergence: where the difference from the oracle begins; None: nowhere, or no oracle.
    """

    links: tuple[Link, ...]
    missing: tuple[Site, ...] = ()
    divergence: Divergence | None = None

    @property
    def guilty(self) -> tuple[Link, ...]:
        """The links whose own error is beyond the floor."""
        return tuple(each for each in self.links if each.is_guilty)

    @property
    def undecided(self) -> tuple[Link, ...]:
        """The links that cannot be told from noise, nor from a fault."""
        return tuple(each for each in self.links if each.own.judgement is Judgement.INCONCLUSIVE)

    def with_names(self, names: Mapping[Site, Named]) -> Chain:
        """Return this chain with what its guilty links were found to be."""
        links = (replace(each, named=names.get(each.site)) for each in self.links)
        return replace(self, links=tuple(links))


def build(
    evaluator: Evaluator,
    subject: Capture,
    *,
    oracle: Capture | None = None,
    control: Capture | None = None,
    ratios: Mapping[str, Any] | None = None,
) -> Chain:
    """Judge every captured operation of a subject by its own error.

    Args:
        evaluator: known-good code with the weights that the subject declares.
        subject: on trial.
        oracle: what the totals are against, up to the step that was fed another token.
        control: known-good code at the subject's precision, for where the divergence begins.
        ratios: see ``localize.evaluation.isolated``.

    Raises:
        FalsifyError: when the captures are not of one population.
    """
    oracle, control = (each and fed_alike(each, subject) for each in (oracle, control))
    found = tuple(isolated(evaluator, subject, ratios=ratios))
    compared = None if oracle is None else compare_captures(subject, oracle)
    totals = {} if compared is None else {each.site: each.total.rel_l2 for each in compared.sites}
    divergence = None
    if compared is not None and oracle is not None and control is not None:
        noise = judge_noise(compared, compare_captures(control, oracle), **(ratios or {}))
        divergence = first_divergence(
            (each.site for each in noise if each.judgement is Judgement.BUG),
            totals,
            {each.site: each.there.sources for each in found},
            _every(evaluator, totals),
        )
    return Chain(
        links=tuple(_link(each, oracle, totals) for each in found),
        missing=(*subject.missing, *_unjudged(evaluator, subject)),
        divergence=divergence,
    )


def fed_alike(capture: Capture, subject: Capture) -> Capture:
    """Return a capture without the decode steps that were fed other tokens than the subject's.

    A subject that decodes another token goes its own way from there; what it is fed is its own
    doing, and no later step can be compared.
    """
    if not any(site.step > 0 for site in capture.tensors):
        return capture
    both = zip(context_of(capture).steps[1:], context_of(subject).steps[1:], strict=False)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))
    kept = {site: each for site, each in capture.tensors.items() if site.step <= alike}
    return replace(capture, tensors=kept)


def first_divergence(
    failing: Iterable[Site],
    compared: Iterable[Site],
    sources: Mapping[Site, Iterable[Site]],
    every: Iterable[Site],
) -> Divergence | None:
    """Return the first site in causal order that fails while all that it is made of pass.

    Args:
        failing: the sites that differ beyond noise.
        compared: the sites that were compared.
        sources: by site, the nearest compared sites that it is made of.
        every: all sites of the model, to tell what was not compared.
    """
    bad = set(failing)
    begins = [each for each in bad if not bad & set(sources.get(each, ()))]
    if not begins:
        return None
    site = min(begins, key=lambda each: each.causal_key)
    seen = set(compared)
    unseen = [each for each in every if each.causal_key < site.causal_key and each not in seen]
    return Divergence(site=site, unseen=tuple(sorted(unseen, key=lambda each: each.causal_key)))


def _link(found: Isolated, oracle: Capture | None, totals: Mapping[Site, float]) -> Link:
    inherited, gain = None, None
    tensor = None if oracle is None else oracle.tensors.get(found.site)
    if tensor is not None:
        theirs = in_stage_order(found.site, tensor)
        inherited = compare_tensors(found.there.expected, theirs, site=found.site).total.rel_l2
        given = max((totals.get(each, 0.0) for each in found.there.sources), default=0.0)
        gain = inherited / given if given > 0 and math.isfinite(given) else None
    return Link(done=found, total=totals.get(found.site), inherited=inherited, gain=gain)


def _unjudged(evaluator: Evaluator, subject: Capture) -> tuple[Site, ...]:
    judged = set(judged_sites(evaluator, subject))
    return tuple(each for each in subject.tensors if each not in judged)


def _every(evaluator: Evaluator, compared: Iterable[Site]) -> tuple[Site, ...]:
    """Return all sites of the compared steps, but those that only hand on what they are given."""
    steps = sorted({each.step for each in compared})
    sites = (site for step in steps for site in evaluator.wide.sites(step))
    return tuple(each for each in sites if each.stage not in CACHES)
