"""Run a session and keep what it shows in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_falsify.captures.capture import Capture, CapturedTensor, TokenInputs
from pytest_falsify.captures.sketch import Sketching
from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.engines.base import Session
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
    _must_be_able(session, inputs, plan)
    sketching = Sketching()
    seen: dict[Site, CapturedTensor] = sketching.seen
    answer = session.run(inputs, plan, sketching if is_sketch else seen.__setitem__)
    has_answer = not is_sketch and (plan.needs_answer or answer.stopped_at is None)
    planned = tuple(_planned(session, plan))
    # Stable: modules, which have no place in the vocabulary, keep the order they arrived in.
    wanted = set(planned)
    arrived = sorted(filter(wanted.__contains__, seen), key=lambda site: site.causal_key)
    return Capture(
        identity=session.identity(),
        inputs=inputs,
        plan=replace(plan, needs_answer=has_answer),
        tensors={site: seen[site] for site in arrived},
        missing=tuple(site for site in planned if site not in seen),
        logits=() if is_sketch else answer.logits,
        continuation=answer.continuation,
        shortlists=answer.shortlists,
        caveats=answer.caveats,
        machine=getattr(session, "machine", None),
    )


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
