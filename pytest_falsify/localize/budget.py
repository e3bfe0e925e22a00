"""Localising with few forwards: the residual stream first, then the insides of guilty layers.

One run shows the residual stream alone, and every layer is judged as one operation. A second run
looks into the guilty layers, and ends after the last of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.localize.chain import Chain, build
from pytest_falsify.stages.vocabulary import STAGES, Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.captures.capture import Capture, TokenInputs
    from pytest_falsify.engines.base import Session
    from pytest_falsify.localize.chain import Link
    from pytest_falsify.localize.evaluation import Evaluator

STREAM = ("embedding", "post_ffn_residual", "final_norm", "lm_head")
INSIDE = ("qkv_matmul", "attn_scores", "attn_softmax")
"""What sessions show on request only and a closer look asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zoomed:
    """What was found within the budget, and what it cost.

    Attributes:
        chain: the links of the stream, and those inside the layers that were looked into.
        forwards: how many forward passes of the subject; a pass that ended early counts in part.
        nbytes: the bytes that were captured.
    """

    chain: Chain
    forwards: float
    nbytes: int


def within_budget(
    evaluator: Evaluator,
    session: Session,
    inputs: TokenInputs,
    *,
    ratios: Mapping[str, Any] | None = None,
) -> Zoomed:
    """Localise with at most two runs of the subject.

    A layer is judged by the error of all its operations together, whose floor is wider than that
    of one of them: a fault close to its own floor may pass here that a full capture shows.

    Args:
        evaluator: known-good code with the weights that the subject declares.
        session: the subject, loaded.
        inputs: what it is fed.
        ratios: see ``localize.evaluation.isolated``.
    """
    shown = (*session.stages, *getattr(session, "on_request", ()))
    stream = record(session, inputs, Plan(stages=tuple(each for each in STREAM if each in shown)))
    coarse = build(evaluator, stream, ratios=ratios)
    layers = _suspected(coarse)
    if not layers:
        return Zoomed(chain=coarse, forwards=1.0, nbytes=_nbytes(stream))
    plan = Plan(
        stages=tuple(
            name
            for name, stage in STAGES.items()
            if stage.scope is Scope.LAYER and name in {*session.stages, *INSIDE} & {*shown}
        ),
        layers=layers,
        needs_answer=False,
    )
    closer = record(session, inputs, plan)
    seen = replace(closer, tensors={**stream.tensors, **closer.tensors})
    fine = build(evaluator, seen, ratios=ratios)
    return Zoomed(
        chain=fine,
        forwards=1.0 + (layers[-1] + 1) / session.layer_count,
        nbytes=_nbytes(stream) + _nbytes(closer),
    )


def _suspected(coarse: Chain) -> tuple[int, ...]:
    """Return the layers that are guilty as a whole, or cannot be told from it."""
    found = {each.site.layer for each in (*coarse.guilty, *coarse.undecided) if _is_layer(each)}
    return tuple(sorted(each for each in found if each is not None))


def _is_layer(link: Link) -> bool:
    return STAGES[link.site.stage].scope is Scope.LAYER


def _nbytes(capture: Capture) -> int:
    return sum(each.array.nbytes for each in capture.tensors.values())
