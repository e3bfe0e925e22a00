"""`unobserved`: looking inside does not change the subject's answer (law 7)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.answers import differing_step, has_nonfinite, unanswered
from pytest_falsify.checks.base import (
    CAPTURE_NAME,
    DECODE_STEPS,
    OBSERVED,
    Captures,
    Compare,
    Request,
    by_input,
)
from pytest_falsify.checks.verdict import Verdict, held, inconclusive, refuted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.checks.claim import Claim

OBSERVED_RUN, BARE_RUN, BARE_AGAIN = range(3)


class Unobserved:
    """Refuted when the logits of a captured and of an uncaptured run differ in one bit."""

    kind: ClassVar[str] = "unobserved"
    parameters: ClassVar[Mapping[str, Any]] = {
        "subject": CAPTURE_NAME,
        "decode_steps": DECODE_STEPS,
        **OBSERVED,
    }
    required: ClassVar[tuple[str, ...]] = ("subject",)

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for one captured run and two bare ones: the second tells noise from an effect."""
        steps = claim.parameter("decode_steps", 0)
        plans = (claim.plan(decode_steps=steps), Plan(decode_steps=steps), Plan(decode_steps=steps))
        return tuple(
            Request(
                role="subject",
                capture=claim.parameter("subject"),
                input=name,
                plan=plan,
                run=run,
                is_fresh=True,
            )
            for name in claim.inputs
            for run, plan in enumerate(plans)
        )

    def judge(self, claim: Claim, captures: Captures, _compare: Compare) -> Verdict:
        """Compare the logits of the captured run with those of the bare one."""
        if lack := unanswered(captures, steps=1 + claim.parameter("decode_steps", 0)):
            return inconclusive(lack)
        if not all(
            request.run != OBSERVED_RUN or capture.tensors for request, capture in captures.items()
        ):
            return inconclusive("nothing was captured, so nothing could have been disturbed")
        for name, runs in by_input(captures).items():
            looked, bare, again = (
                runs["subject", run] for run in (OBSERVED_RUN, BARE_RUN, BARE_AGAIN)
            )
            if has_nonfinite(bare):
                return inconclusive(f"the subject's logits on {name} are not finite")
            if differing_step(bare, again) is not None:
                return inconclusive(
                    f"two uncaptured runs on {name} differ already; see kind `deterministic`"
                )
            step = differing_step(looked, bare)
            if step is not None:
                return refuted(
                    [f"capturing changed the logits of step {step} on {name}"],
                    captures,
                    observed={"undisturbed": False, "step": step},
                )
        return held(
            "the logits are the same bits with and without capture",
            captures,
            observed={"undisturbed": True},
            faults=_plant(captures),
        )


def _plant(captures: Captures) -> dict[str, int]:
    """Plant one changed bit in the logits of each step of each captured run."""
    planted = caught = 0
    for runs in by_input(captures).values():
        looked, bare = runs["subject", OBSERVED_RUN], runs["subject", BARE_RUN]
        for step, logits in enumerate(looked.logits):
            bits = np.frombuffer(logits.tobytes(), np.uint8).copy()
            bits[len(bits) // 2] ^= 1
            faulty = list(looked.logits)
            faulty[step] = bits.view(logits.dtype).reshape(logits.shape)
            planted += 1
            caught += differing_step(replace(looked, logits=tuple(faulty)), bare) == step
    return {"planted": planted, "caught": caught}
