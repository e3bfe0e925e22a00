"""Two captures and no engine: where they part, and who is guilty if there is a model to ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.compare.noise import Judgement, judge_noise
from pytest_falsify.localize.chain import Chain, Divergence, build, fed_alike, first_divergence
from pytest_falsify.localize.naming import name_fault
from pytest_falsify.localize.straddle import Straddle, straddle
from pytest_falsify.stages.vocabulary import STAGES, Scope, Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.compare.comparison import Comparison
    from pytest_falsify.localize.evaluation import Evaluator


@dataclass(frozen=True, slots=True, kw_only=True)
class Bisection:
    """What two captures show.

    Attributes:
        chain: every operation judged by its own error, where there was a model.
        divergence: where they part beyond the control's noise, where there was a control.
        straddle: where a cosine falls below the threshold, which is where drift is seen.
    """

    chain: Chain | None
    divergence: Divergence | None
    straddle: Straddle


def bisect(
    subject: Capture,
    oracle: Capture,
    *,
    cosine: float,
    control: Capture | None = None,
    evaluator: Evaluator | None = None,
    along: Sequence[Site] = (),
) -> Bisection:
    """Say where two captures part.

    Args:
        subject: on trial.
        oracle: trusted, fed the same tokens.
        cosine: the threshold of the classical chain.
        control: known-good code at the subject's precision.
        evaluator: with the weights that the subject declares.
        along: the sites of the classical chain in order; all that both show by default.

    Raises:
        FalsifyError: when the captures are not of one population.
    """
    if evaluator is not None:
        oracle, control = fed_alike(oracle, subject), control and fed_alike(control, subject)
    comparison = compare_captures(subject, oracle)
    sites = tuple(along) or tuple(each.site for each in comparison.sites)
    crossed = straddle(comparison, sites, cosine=cosine)
    if evaluator is not None:
        chain = build(evaluator, subject, oracle=oracle, control=control)
        found = ((each.site, name_fault(evaluator, subject, each.site)) for each in chain.guilty)
        chain = chain.with_names({site: named for site, named in found if named})
        return Bisection(chain=chain, divergence=chain.divergence, straddle=crossed)
    divergence = None
    if control is not None:
        divergence = _divergence(comparison, compare_captures(control, oracle))
    return Bisection(chain=None, divergence=divergence, straddle=crossed)


def _divergence(comparison: Comparison, noise: Comparison) -> Divergence | None:
    """Return where the subject first is further from the oracle than the control ever was."""
    shown = [each.site for each in comparison.sites]
    bugs = [each.site for each in judge_noise(comparison, noise) if each.judgement is Judgement.BUG]
    return first_divergence(bugs, shown, {}, _likely(shown))


def layer_chain(stages: Sequence[str], layer: int) -> tuple[Site, ...]:
    """Return the sites of named stages in one layer, in the order in which they are named."""
    return tuple(
        Site(0, layer if STAGES[name].scope is Scope.LAYER else None, name) for name in stages
    )


def _likely(shown: Sequence[Site]) -> tuple[Site, ...]:
    """Return the sites that a model which shows these is likely to have.

    Without the model nothing better is known: the stages that any layer shows, in every layer up to
    the last one that shows something.
    """
    layers = range(max((each.layer for each in shown if each.layer is not None), default=-1) + 1)
    return tuple(
        Site(step, layer, stage)
        for step in sorted({each.step for each in shown})
        for stage in {each.stage: None for each in shown}
        for layer in (layers if STAGES[stage].scope is Scope.LAYER else (None,))
    )
