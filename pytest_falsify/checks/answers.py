"""Facts about the answers of two runs: their logits and their greedy tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_falsify.canonical import digest
from pytest_falsify.captures.tensor_file import array_digest

if TYPE_CHECKING:
    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.base import Captures


def unanswered(captures: Captures, *, steps: int = 1) -> str:
    """Return why the answers cannot be judged: a run gave no logits; or nothing.

    Args:
        captures: what was captured; no capture at all is no answer.
        steps: of how many steps, the prefill being the first, each run is to have logits.
    """
    for request, capture in captures.items():
        given = sum(each.size > 0 for each in capture.logits[:steps])
        if given < steps:
            which = "no logits" if not given else f"logits of {given} of {steps} steps"
            return f"the {request.role} gave {which} on {request.input}"
    return "" if captures else "nothing was compared"


def has_nonfinite(capture: Capture) -> bool:
    """Tell whether any logit of a run is NaN or infinite."""
    return any(not np.isfinite(each.astype(np.float64)).all() for each in capture.logits)


def differing_step(a: Capture, b: Capture) -> int | None:
    """Return the first step whose logits differ in shape, dtype or any bit, or None."""
    if len(a.logits) != len(b.logits):
        return min(len(a.logits), len(b.logits))
    for step, (x, y) in enumerate(zip(a.logits, b.logits, strict=True)):
        if (x.shape, x.dtype) != (y.shape, y.dtype) or x.tobytes() != y.tobytes():
            return step
    return None


def digest_of(capture: Capture) -> str:
    """Return ``sha256:...`` of every bit that a run answered and showed, with dtypes and shapes."""
    shown = {str(site): each.array for site, each in capture.tensors.items()}
    answered = {f"logits {step}": each for step, each in enumerate(capture.logits)}
    return digest(
        {
            name: [array.dtype.name, list(array.shape), array_digest(array)]
            for name, array in (shown | answered).items()
        }
    )


def margin(capture: Capture, step: int) -> float:
    """Return how far the best logit of a decode step stands above the second best.

    Args:
        capture: the run whose answer it is.
        step: 0 for the token that the prefill decides, n for the nth decode step's.
    """
    second, best = np.sort(capture.logits[step][-1].astype(np.float64))[-2:]
    return float(best - second)
