"""Numbers of a fault, fitted to what the subject shows: each with how far it may be off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

DEVIATIONS = 4.0
"""How many standard errors a number may be off: of few points the error itself is uncertain."""
MOST_DIGITS = 7
WELL_KNOWN = 1e-3
"""A number whose relative uncertainty is smaller is told without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A number and its standard error."""

    value: float
    error: float

    @property
    def reach(self) -> float:
        """How far off the number may be."""
        return DEVIATIONS * self.error

    @property
    def plausible(self) -> float:
        """The number with the fewest digits within reach: people do not write 9999.87."""
        for digits in range(MOST_DIGITS):
            rounded = float(f"{self.value:.{digits}e}")
            if abs(rounded - self.value) <= self.reach:
                return rounded
        return self.value

    def told(self) -> str:
        """Return the plausible number, with its uncertainty where that is not small."""
        number = f"{self.plausible:.{MOST_DIGITS}g}"
        uncertainty = self.reach / abs(self.value) if self.value else math.inf
        return number if uncertainty < WELL_KNOWN else f"{number} (give or take {self.reach:.1g})"


def proportional(x: Array, y: Array, weights: Array) -> Fitted | None:
    """Fit y = a x by weighted least squares: a = sum(w x y) / sum(w x^2).

    Args:
        x: (n,).
        y: (n,).
        weights: (n,), the inverse variances of ``y``; where the points scatter more than these
            say, the error is made as much larger.

    Returns:
        The factor, or None where nothing depends on it.
    """
    power = float((weights * x * x).sum())
    if not power > 0 or not math.isfinite(power):
        return None
    value = float((weights * x * y).sum()) / power
    scatter = float((weights * (y - value * x) ** 2).sum()) / max(1, len(x) - 1)
    return Fitted(value=value, error=math.sqrt(max(1.0, scatter) / power))
