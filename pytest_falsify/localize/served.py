"""Whether what was captured is what is served: nothing about the one holds for another path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.compare.comparison import SiteComparison, compare_tensors
from pytest_falsify.compare.noise import Judgement, judge_site
from pytest_falsify.stages.vocabulary import Site

if TYPE_CHECKING:
    import numpy as np

    from pytest_falsify.captures.capture import Capture

NOT_SERVED = "the captured path is not the served one"


def unlike_served(
    captured: Capture, served: Capture, *, oracle: Capture, control: Capture | None
) -> str | None:
    """Return in what the captured path differs from the served one, or None.

    Their tokens must be the same. Their logits must have the same bits, or differ by no more than
    the control does from the oracle.

    Args:
        captured: the subject's run that was looked into.
        served: the run of the product, which nobody looked into.
        oracle: for the noise.
        control: for the noise; without it bits have to be equal.
    """
    if captured.continuation != served.continuation:
        return f"{NOT_SERVED}: other tokens were decoded"
    if len(captured.logits) != len(served.logits) or not served.logits:
        return _untold(captured, served)
    for step, (mine, theirs) in enumerate(zip(captured.logits, served.logits, strict=True)):
        if mine.shape != theirs.shape:
            return f"{NOT_SERVED}: it has logits of another shape at step {step}"
        if mine.tobytes() == theirs.tobytes():
            continue
        if (mine.argmax(-1) != theirs.argmax(-1)).any():
            return f"{NOT_SERVED}: other tokens are chosen at step {step}"
        if not _is_noise(captured, served, oracle, control, step):
            return f"{NOT_SERVED}: its logits differ at step {step}, by more than noise"
    return None


def _untold(captured: Capture, served: Capture) -> str | None:
    """Return why nothing can be said; tokens alone do, where there are any."""
    if captured.continuation and not served.logits:
        return None
    return "the served path gave neither logits nor tokens that could be compared"


def _is_noise(
    captured: Capture, served: Capture, oracle: Capture, control: Capture | None, step: int
) -> bool:
    if control is None or not len(control.logits) > step < len(oracle.logits):
        return False
    own = _compared(captured.logits[step], served.logits[step], step)
    allowed = _compared(control.logits[step], oracle.logits[step], step)
    return judge_site(own, allowed).judgement is Judgement.NOISE


def _compared(
    one: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    other: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    step: int,
) -> SiteComparison:
    positions = tuple(range(len(one)))
    mine, theirs = (
        CapturedTensor(array=each, dims="t v", positions=positions) for each in (one, other)
    )
    return compare_tensors(mine, theirs, site=Site(step, None, "lm_head"))
