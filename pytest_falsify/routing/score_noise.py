"""What routers choose by, side by side, and how far a control's is from the oracle's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.compare.noise import FEWEST_ROWS, GROSS, RATIO, unit_roundoff
from pytest_falsify.routing.gate import scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_falsify.routing.trace import LayerRouting

    Array = NDArray[Any]

UNMEASURED_ROUNDINGS = 16
"""Where the control has the oracle's own bits, so many roundings are what its noise may be."""


@dataclass(frozen=True, slots=True)
class ScoreNoise:
    """The scores of one layer on each side, and how far they are from the oracle's.

    Attributes:
        oracle: (tokens, experts) what the choice is made by.
        error: (tokens,) the root mean square error of the subject's.
        floor: (tokens,) the control's, at least what is usual among the tokens; 0 without one.
        usual: the median of the control's, at least a rounding; None without a control.
    """

    oracle: Array
    error: Array
    floor: Array
    usual: float | None
    sigmas: float

    @classmethod
    def of(
        cls, mine: LayerRouting, theirs: LayerRouting, known: LayerRouting | None, sigmas: float
    ) -> ScoreNoise:
        """Return the noise of one layer of a subject, an oracle, and a control where one is."""
        sides = [mine, theirs, *((known,) if known is not None else ())]
        is_ordered = all(_is_ordered_by_logits(each) for each in sides)
        by = _by(theirs, is_ordered=is_ordered)
        error = _rms(_by(mine, is_ordered=is_ordered) - by)
        if known is None:
            return cls(by, error, np.zeros(len(by)), None, sigmas)
        alike = replace(known, gate=theirs.gate, bias=theirs.bias)
        noise = _rms(_by(alike, is_ordered=is_ordered) - by)
        noise = np.where(np.isfinite(noise), noise, 0.0)  # what is broken allows nothing
        rounding = unit_roundoff(mine.logits.dtype) * float(np.median(_rms(by)))
        is_measured = bool((noise > 0).any())
        usual = max(
            float(np.median(noise)), rounding * (1 if is_measured else UNMEASURED_ROUNDINGS)
        )
        return cls(by, error, np.maximum(noise, usual), usual, sigmas)

    def allowance(self, token: int, *, is_tainted: bool) -> float:
        """Return the margin that noise can overcome at a token."""
        own = self.error[token] if is_tainted and np.isfinite(self.error[token]) else 0.0
        noise = max(self.floor[token], own)
        return float(self.sigmas * math.sqrt(2) * noise)

    def ratio(self, tainted: Array) -> tuple[float | None, float]:
        """Return error over floor in the median of the tokens that are not tainted, and a limit."""
        rows = np.flatnonzero(~tainted)
        if self.usual is None or not len(rows):
            return None, RATIO
        limit = RATIO if len(rows) >= FEWEST_ROWS else RATIO * GROSS
        floor = max(float(np.median(self.floor[rows])), self.usual)
        error = float(np.median(self.error[rows]))
        return (error / floor if floor > 0 else math.inf if error > 0 else 0.0), limit


def _is_ordered_by_logits(layer: LayerRouting) -> bool:
    """Tell whether the order of finite logits is all that the choice is made by.

    Probabilities that a file rounded to 0 have no finite logit.
    """
    return layer.gate.is_plain and layer.bias is None and not np.isinf(layer.logits).any()


def _by(layer: LayerRouting, *, is_ordered: bool) -> Array:
    """Return what the choice is made by, groups aside: the logits where their order is all."""
    if is_ordered:
        return layer.logits.astype(np.float64)
    found = scores(layer.logits, layer.gate)
    return found if layer.bias is None else found + layer.bias.astype(np.float64)


def _rms(error: Array) -> Array:
    with np.errstate(invalid="ignore"):
        found = np.sqrt(np.mean(error**2, axis=-1))
    result: Array = np.where(np.isnan(found), np.inf, found)
    return result
