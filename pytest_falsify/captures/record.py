"""Run a session and keep what it shows in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.captures.capture import Capture, CapturedTensor, TokenInputs

if TYPE_CHECKING:
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.engines.base import Session
    from pytest_falsify.stages.vocabulary import Site


def record(session: Session, inputs: TokenInputs, plan: Plan) -> Capture:
    """Run a plan and return all of it. Planned sites that did not arrive are listed, not hidden.

    Raises:
        CaptureError: when the plan or the inputs do not fit the model.
    """
    seen: dict[Site, CapturedTensor] = {}
    answer = session.run(inputs, plan, seen.__setitem__)
    planned = tuple(plan.sites(session.layer_count))
    return Capture(
        identity=session.identity(),
        inputs=inputs,
        plan=plan,
        tensors={site: seen[site] for site in planned if site in seen},
        missing=tuple(site for site in planned if site not in seen),
        logits=answer.logits,
        continuation=answer.continuation,
    )
