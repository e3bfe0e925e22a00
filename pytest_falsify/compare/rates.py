"""How often something happens, how sure that is, and whether it happens more often than before."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, fsum, lgamma, log, log1p, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

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

    @property
    def share(self) -> float:
        """The share, from 0 to 1."""
        return self.count / self.total

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return the Wilson score interval (Wilson, JASA 22, 1927)."""
        z = _quantile(confidence)
        spread = z * z / self.total
        centre = (self.share + spread / 2) / (1 + spread)
        variance = self.share * (1 - self.share) / self.total
        half = z * sqrt(variance + spread / self.total / 4) / (1 + spread)
        low = 0.0 if self.count == 0 else max(0.0, centre - half)
        high = 1.0 if self.count == self.total else min(1.0, centre + half)
        return low, high

    def is_within(self, limit: float, confidence: float = CONFIDENCE) -> bool | None:
        """Tell whether a limit is kept: the whole interval within it, beyond it, or undecided."""
        low, high = self.interval(confidence)
        if high <= limit:
            return True
        return False if low > limit else None

    def chance(self, limit: float) -> float:
        """Return how probable as many or more are where the true share is a limit.

        The exact binomial tail: unlike an interval it does not err where few samples are rare.

        Args:
            limit: above 0 and below 1.
        """
        if self.count == 0:
            return 1.0
        odds, ways = log(limit) - log1p(-limit), lgamma(self.total + 1)
        return min(
            1.0,
            fsum(
                exp(
                    ways
                    - lgamma(count + 1)
                    - lgamma(self.total - count + 1)
                    + count * odds
                    + self.total * log1p(-limit)
                )
                for count in range(self.count, self.total + 1)
            ),
        )

    def lacking(self, limit: float, confidence: float = CONFIDENCE) -> int | None:
        """Return how many samples more would decide about a limit if the share stayed as it is.

        A bound of the interval meets the limit L where |share - L| = z sqrt(L (1 - L) / n).

        Returns:
            0 where it is decided; None where no number of samples would decide.
        """
        if self.is_within(limit, confidence) is not None:
            return 0
        distance = abs(self.share - limit)
        if distance == 0 or limit * (1 - limit) == 0:
            return None
        wanted = _quantile(confidence) ** 2 * limit * (1 - limit) / distance**2
        return max(1, ceil(wanted) - self.total)

    def words(self, confidence: float = CONFIDENCE) -> str:
        """Return the count, the share and its interval."""
        low, high = self.interval(confidence)
        return (
            f"{self.count} of {self.total} ({self.share:.3g}, {confidence * 100:g}% interval "
            f"{low:.3g} to {high:.3g})"
        )

    def __str__(self) -> str:
        return self.words()


@dataclass(frozen=True, slots=True, kw_only=True)
class Discordance:
    """The samples at which one of two runs differs from the reference and the other does not.

    Attributes:
        worse: how many the first run alone differs at.
        better: how many the second run alone differs at.
    """

    worse: int
    better: int

    @classmethod
    def of(cls, pairs: Iterable[tuple[bool, bool]]) -> Self:
        """Count samples: whether the first run differs there, and whether the second does."""
        found = tuple(pairs)
        return cls(
            worse=sum(first and not second for first, second in found),
            better=sum(second and not first for first, second in found),
        )

    @property
    def chance(self) -> float:
        """The two-sided probability of a split at least as uneven, were both runs alike.

        McNemar's test (Psychometrika 12, 1947) in its exact form: each discordant sample falls on
        either side with probability 1/2.
        """
        total, rarer = self.worse + self.better, min(self.worse, self.better)
        term = tail = 1
        for taken in range(rarer):
            term = term * (total - taken) // (taken + 1)
            tail += term
        return min(1.0, 2 * tail / (1 << total))

    def is_worse(self, confidence: float = CONFIDENCE) -> bool:
        """Tell whether the first run differs more often than the second by more than chance."""
        return self.worse > self.better and self.chance <= 1 - confidence


def is_kept(
    rate: Rate, limit: float, *, confidence: float, paired: Discordance | None = None
) -> bool | None:
    """Tell whether a limit is kept; with a second run to compare with, only that run refutes.

    Args:
        rate: how often the first run differs.
        limit: how often it may.
        confidence: of the interval and of the paired test.
        paired: the first run against one that is known to be good.

    Returns:
        True: the upper bound is within the limit. False: the lower bound is beyond it; with a
        second run: the first is worse by more than chance. None: undecided.
    """
    kept = rate.is_within(limit, confidence)
    if paired is None:
        return kept
    if paired.is_worse(confidence):
        return False
    return kept or None


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
