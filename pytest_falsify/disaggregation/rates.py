"""How often something happens, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of samples.

    Attributes:
        count: how many of them.
        total: of how many, at least one.
    """

    count: int
    total: int

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return the Wilson score interval (Wilson, JASA 22, 1927)."""
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        share, spread = self.count / self.total, z * z / self.total
        centre = (share + spread / 2) / (1 + spread)
        half = z * sqrt(share * (1 - share) / self.total + spread / self.total / 4) / (1 + spread)
        low = 0.0 if self.count == 0 else max(0.0, centre - half)
        high = 1.0 if self.count == self.total else min(1.0, centre + half)
        return low, high

    def is_within(self, limit: float, confidence: float = CONFIDENCE) -> bool | None:
        """Tell whether a limit is kept: the whole interval within it, beyond it, or undecided."""
        low, high = self.interval(confidence)
        if high <= limit:
            return True
        return False if low > limit else None

    def __str__(self) -> str:
        low, high = self.interval()
        share = self.count / self.total
        return (
            f"{self.count} of {self.total} ({share:.3g}, {CONFIDENCE:.0%} interval "
            f"{low:.3g} to {high:.3g})"
        )
