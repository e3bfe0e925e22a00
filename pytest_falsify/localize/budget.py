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

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.engines.base import Session
    from pytest_falsify.localize.chain import Link
    from pytest_falsify.localize.evaluation import Evaluator

STREAM = ("embedding", "post_ffn_residual", "final_norm", "lm_head")
"""What the first run shows: the residual stream and the two ends."""
ON_REQUEST = ("qkv_matmul", "attn_scores", "attn_softmax")
"""What sessions show on request only and a closer look asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zoomed:
    """What was found within the budget, and what it cost.

    Attributes:
        capture: all that was captured, in both runs.
        chain: the links of the stream, and those inside the layers that were looked into.
        forwards: how many forward passes of the subject; a pass that ended early counts in part.
    """

    capture: Capture
    chain: Chain
    forwards: float

    @property
    def nbytes(self) -> int:
        """The bytes of the tensors that were captured."""
        return sum(each.array.nbytes for each in self.capture.tensors.values())


def stream_plan(session: Session) -> Plan:
    """Return what the first run is asked for."""
    return Plan(stages=tuple(each for each in STREAM if each in session.stages))


def zoom(
    evaluator: Evaluator,
    session: Session,
    stream: Capture,
    *,
    oracle: Capture | None = None,
    ratios: Mapping[str, Any] | None = None,
) -> Zoomed:
    """Look into the layers that are guilty as a whole, with one more run of the subject.

    A layer is judged by the error of all its operations together, whose floor is wider than that
    of one of them: a fault close to its own floor, or one that a later norm takes back, may pass
    here that a full capture shows.

    Args:
        evaluator: known-good code with the weights that the subject declares.
        session: the subject, loaded.
        stream: what the first run showed.
        oracle: what the totals are against.
        ratios: see ``localize.evaluation.isolated``.
    """
    coarse = build(evaluator, stream, oracle=oracle, ratios=ratios)
    layers = _suspected(coarse)
    if not layers:
        return Zoomed(capture=stream, chain=coarse, forwards=1.0)
    closer = record(session, stream.inputs, _closer(session, layers))
    tensors = {**stream.tensors, **closer.tensors}
    ordered = sorted(tensors, key=lambda each: each.causal_key)
    seen = replace(stream, tensors={each: tensors[each] for each in ordered})
    last = closer.plan.needs_answer
    return Zoomed(
        capture=seen,
        chain=build(evaluator, seen, oracle=oracle, ratios=ratios),
        forwards=1.0 + (1.0 if last else (layers[-1] + 1) / session.layer_count),
    )


def _closer(session: Session, layers: tuple[int, ...]) -> Plan:
    asked = {*ON_REQUEST} & {*getattr(session, "on_request", ())}
    return Plan(
        stages=tuple(
            name
            for name, stage in STAGES.items()
            if stage.scope is Scope.LAYER and name in {*session.stages, *asked}
        ),
        layers=layers,
        needs_answer=False,
    )


def _suspected(coarse: Chain) -> tuple[int, ...]:
    """Return the layers that are guilty as a whole, or cannot be told from it."""
    found = {each.site.layer for each in (*coarse.guilty, *coarse.undecided) if _is_layer(each)}
    return tuple(sorted(each for each in found if each is not None))


def _is_layer(link: Link) -> bool:
    return STAGES[link.site.stage].scope is Scope.LAYER
