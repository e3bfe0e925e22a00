"""Naming a fault: the known faults are tried until one explains what the subject shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.compare.noise import Judgement
from pytest_falsify.errors import AlignmentError
from pytest_falsify.localize.evaluation import (
    Subject,
    in_stage_order,
    judged_against,
    like,
    to_torch,
)
from pytest_falsify.localize.hypotheses import HYPOTHESES
from pytest_falsify.localize.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    from pytest_falsify.captures.capture import Capture
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

    A fault with fitted numbers is taken only where none with fewer explains; among equals, the one
    that leaves the smallest error.

    Args:
        evaluator: known-good code with the weights that the subject declares.
        subject: on trial.
        site: a guilty one.
        hypotheses: the faults to try.
        ratios: see ``localize.evaluation.isolated``.

    Returns:
        The fault, or None: no known fault explains it.
    """
    trials = [_trial(graph, subject, site) for graph in (evaluator.wide, evaluator.narrow)]
    found: list[tuple[int, float, Named]] = []
    for each in hypotheses:
        if not each.applies_to(site):
            continue
        for detail, compute in each.variants(trials[0]):
            own = _left(subject, site, compute, trials, ratios)
            if own is not None and own.judgement is Judgement.NOISE:
                named = Named(fault=each.name, detail=detail, own=own)
                found.append((each.fitted, own.ratio, named))
    return min(found, key=lambda each: each[:2])[2] if found else None


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
        observed=to_torch(tensor.array, graph.model),
        context=captured.context,
    )


def _left(
    subject: Capture,
    site: Site,
    compute: Compute,
    trials: list[Trial],
    ratios: Mapping[str, Any] | None,
) -> SiteNoise | None:
    """Return the own error that is left when the operation is done with a fault."""
    import torch

    tensor = in_stage_order(site, subject.tensors[site])
    fed = trials[0].context.positions(site.step)
    with torch.inference_mode():
        values = [compute(each) for each in trials]
    if any(each.shape != values[0].shape for each in values):
        return None
    expected, usual = (like(tensor, each, fed) for each in values)
    try:
        return judged_against(site, tensor, expected, usual, ratios)
    except AlignmentError:
        return None  # the fault has another shape here, so it is not this one
