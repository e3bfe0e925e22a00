"""Run a session and keep what it shows in memory: tensors, their sketches, or their statistics."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_falsify.captures.capture import Capture, CapturedTensor, TokenInputs
from pytest_falsify.captures.sketch import Sketching
from pytest_falsify.captures.summary import Statistics, Summarising
from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.engines.base import Session, Sink
    from pytest_falsify.stages.vocabulary import Site


def record(
    session: Session, inputs: TokenInputs, plan: Plan, *, is_sketch: bool = False
) -> Capture:
    """Run a plan and return all of it. Planned sites that did not arrive are listed, not hidden.

    Args:
        session: the loaded model.
        inputs: what it is fed.
        plan: what is observed.
        is_sketch: keep sketches of the tensors, and no logits: so it is small enough for git.

    Raises:
        CaptureError: when the plan or the inputs do not fit the model, or the engine cannot do what
            they ask.
    """
    sketching = Sketching()
    seen: dict[Site, CapturedTensor] = sketching.seen
    found = _run(session, inputs, plan, sketching if is_sketch else seen.__setitem__, seen)
    found = replace(found, tensors={site: seen[site] for site in _arrived(session, plan, seen)})
    return _without_answer(found) if is_sketch else found


def summarise(session: Session, inputs: TokenInputs, plan: Plan) -> Statistics:
    """Run a plan and return a few numbers of each tensor; see ``record``."""
    summarising = Summarising()
    seen = summarising.seen
    found = _run(session, inputs, plan, summarising, seen)
    sites = {site: seen[site] for site in _arrived(session, plan, seen)}
    return Statistics(run=_without_answer(found), sites=sites)


def _run(
    session: Session, inputs: TokenInputs, plan: Plan, sink: Sink, seen: Collection[Site]
) -> Capture:
    """Return what came of a run but its tensors, which the sink has seen."""
    _must_be_able(session, inputs, plan)
    answer = session.run(inputs, plan, sink)
    has_answer = plan.needs_answer or answer.stopped_at is None
    return Capture(
        identity=session.identity(),
        inputs=inputs,
        plan=replace(plan, needs_answer=has_answer),
        tensors={},
        missing=tuple(site for site in _planned(session, plan) if site not in seen),
        logits=answer.logits,
        continuation=answer.continuation,
        shortlists=answer.shortlists,
        caveats=answer.caveats,
        machine=getattr(session, "machine", None),
    )


def _without_answer(capture: Capture) -> Capture:
    return replace(capture, plan=replace(capture.plan, needs_answer=False), logits=())


def _arrived(session: Session, plan: Plan, seen: Collection[Site]) -> list[Site]:
    """Return the planned sites that were seen, in causal order.

    Stable: modules, which have no place in the vocabulary, keep the order they arrived in.
    """
    wanted = set(_planned(session, plan))
    return sorted(filter(wanted.__contains__, seen), key=lambda site: site.causal_key)


def _planned(session: Session, plan: Plan) -> Iterator[Site]:
    """Yield the sites of a plan; where no layers are named, those that the model has.

    A stage of one layer may not exist in another: an expert's router in a layer without experts.
    """
    has = getattr(session, "has", None) if plan.layers is None else None
    return (site for site in plan.sites(session.layer_count) if has is None or has(site))


def _must_be_able(session: Session, inputs: TokenInputs, plan: Plan) -> None:
    """Refuse what an engine would silently leave undone."""
    asked = {
        "forced": inputs.forced and plan.decode_steps,
        "positions": plan.positions is not None,
    }
    for name, is_asked in asked.items():
        if is_asked and name not in getattr(session, "understands", ()):
            msg = f"engine {session.identity().engine} does not understand `{name}`"
            raise CaptureError(msg, remedy=f"leave `{name}` out, or use another engine")
