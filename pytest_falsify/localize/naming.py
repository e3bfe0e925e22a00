"""Naming a fault: the known faults are tried until one explains what the subject shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_falsify.captures.plan import CACHES
from pytest_falsify.compare.noise import Judgement, judge_noise
from pytest_falsify.errors import AlignmentError
from pytest_falsify.localize.evaluation import (
    Subject,
    comparison_of,
    errors,
    in_stage_order,
    judged_sites,
    like,
    to_torch,
)
from pytest_falsify.localize.hypotheses import HYPOTHESES
from pytest_falsify.localize.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.compare.comparison import SiteComparison
    from pytest_falsify.compare.noise import SiteNoise
    from pytest_falsify.localize.evaluation import Evaluator
    from pytest_falsify.localize.trial import Compute, Hypothesis
    from pytest_falsify.stages.graph import StageGraph
    from pytest_falsify.stages.vocabulary import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A known fault that explains a guilty operation: done with it, the oracle is the subject.

    Attributes:
        fault: its name in the table.
        detail: how it happened, for example ``half -> interleaved``.
        own: the own error that is left, judged against the floor.
    """

    fault: str
    detail: str
    own: SiteNoise

    def __str__(self) -> str:
        error, floor = self.own.error, self.own.floor
        told = f"`{self.fault}: {self.detail}`"
        return f"equal to the oracle after {told} ({error:.1e}, floor {floor:.1e})"


def name_fault(
    evaluator: Evaluator,
    subject: Capture,
    site: Site,
    *,
    hypotheses: Iterable[Hypothesis] = HYPOTHESES,
    ratios: Mapping[str, Any] | None = None,
) -> Named | None:
    """Return the known fault that brings a guilty operation's own error to the floor.

    A fault with fitted numbers is taken only where none with fewer explains; among equals, and
    among the ways in which one fault happens, the one that leaves the smallest error. One that
    leaves more than there was explains nothing, however wide its own floor is. The decode steps of
    one stage are one operation: a fault has to explain all of them, or else all from the guilty
    one on.

    Args:
        evaluator: known-good code with the weights that the subject declares.
        subject: on trial.
        site: a guilty one.
        hypotheses: the faults to try.
        ratios: see ``localize.evaluation.isolated``.

    Returns:
        The fault, or None: no known fault explains it.
    """
    every = _operation(evaluator, subject, site)
    later = [each for each in every if each.step >= site.step]
    for sites in (every, later) if len(later) < len(every) else (every,):
        tried = [_Tried.of(evaluator, subject, each) for each in sites]
        if found := _best(tried, hypotheses, ratios):
            since = "" if sites is every else f", from step {site.step} on"
            return replace(found, detail=f"{found.detail}{since}")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """One step of the operation, on both precisions."""

    wide: Trial
    narrow: Trial

    @classmethod
    def of(cls, evaluator: Evaluator, subject: Capture, site: Site) -> _Tried:
        return cls(
            wide=_trial(evaluator.wide, subject, site),
            narrow=_trial(evaluator.narrow, subject, site),
        )

    def errors(self, compute: Compute) -> tuple[SiteComparison, SiteComparison] | None:
        """Return the own error and the floor when the operation is done with a fault.

        None: the fault has another shape here, so it is not this one.
        """
        import torch

        with torch.inference_mode():
            values = [compute(each) for each in (self.wide, self.narrow)]
        if any(each.shape != values[0].shape for each in values):
            return None
        tensor, fed = self.wide.tensor, self.wide.context.positions(self.wide.site.step)
        expected, usual = (like(tensor, each, fed) for each in values)
        try:
            return errors(self.wide.site, tensor, expected, usual)
        except AlignmentError:
            return None


def _operation(evaluator: Evaluator, subject: Capture, site: Site) -> list[Site]:
    """Return the steps that are judged together with a site; a cache is one at each step."""
    if site.step == 0 or site.stage in CACHES:
        return [site]
    judged = judged_sites(evaluator, subject)
    place = site.layer, site.stage
    return [each for each in judged if each.step and (each.layer, each.stage) == place]


def _best(
    tried: list[_Tried], hypotheses: Iterable[Hypothesis], ratios: Mapping[str, Any] | None
) -> Named | None:
    found: list[tuple[int, float, Named]] = []
    there = _left(tried, lambda trial: trial.expected, ratios)
    assert there is not None  # what is right has the shape of what is right
    for each in hypotheses:
        if not each.applies_to(tried[0].wide.site):
            continue
        for detail, compute in each.variants(tried[0].wide):
            own = _left(tried, compute, ratios)
            if own is not None and _explains(own, there):
                named = Named(fault=each.name, detail=detail, own=own)
                found.append((each.fitted, own.error, named))
    if not found:
        return None
    fault = min(found, key=lambda each: each[:2])[2].fault
    return min(
        (named for _, _, named in found if named.fault == fault), key=lambda each: each.own.error
    )


def _explains(left: SiteNoise, there: SiteNoise) -> bool:
    return left.judgement is Judgement.NOISE and (left.error < there.error or left.error == 0)


def _trial(graph: StageGraph, capture: Capture, site: Site) -> Trial:
    captured = Subject(capture, graph)
    inputs: dict[Site, torch.Tensor] = {}
    for each in graph.inputs(site):
        if each in captured:
            inputs[each] = captured[each]
        else:
            replayed = graph.replay(each, captured, context=captured.context)
            assert replayed is not None  # nothing limits how far it may reach back
            inputs[each] = replayed.value
    tensor = in_stage_order(site, capture.tensors[site])
    return Trial(
        graph=graph,
        site=site,
        inputs=inputs,
        tensor=tensor,
        observed=to_torch(tensor.array, graph.model),
        context=captured.context,
    )


def _left(
    tried: list[_Tried], compute: Compute, ratios: Mapping[str, Any] | None
) -> SiteNoise | None:
    """Return the own error that is left when the operation is done with a fault at every step."""
    found = []
    for each in tried:
        both = each.errors(compute)
        if both is None:
            return None
        found.append(both)
    own, allowed = (comparison_of(each) for each in zip(*found, strict=True))
    (judged,) = judge_noise(own, allowed, **(ratios or {}))
    return judged
