"""Samples by their length: a rate of each range of lengths, so that none hides in the whole."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_falsify.compare.rates import CONFIDENCE, Discordance, Rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample that was judged, or could not be.

    Attributes:
        length: in tokens.
        differs: whether it differs from the reference; None: that could not be told.
        control: the same of a run that is known to be good, where there is one.
    """

    length: int
    differs: bool | None
    control: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The samples of one range of lengths.

    Attributes:
        low: the shortest that belongs to it, in tokens.
        high: the longest that belongs to it; None: there is none.
        is_paired: whether the samples were also run by code that is known to be good.
    """

    low: int
    high: int | None
    samples: Sequence[Sample] = field(default=())
    is_paired: bool = False

    @property
    def label(self) -> str:
        """``17..32``, or ``1025..`` where it has no end."""
        end = "" if self.high is None else str(self.high)
        return end if end == str(self.low) else f"{self.low}..{end}"

    @property
    def rate(self) -> Rate | None:
        """How many of those that could be judged differ; None: none could."""
        judged = [each.differs for each in self.samples if each.differs is not None]
        return Rate(count=sum(judged), total=len(judged)) if judged else None

    @property
    def words(self) -> str:
        """``8 of 20``: how many of those that could be judged differ."""
        return f"{self.rate.count} of {self.rate.total}" if self.rate else "none judged"

    @property
    def unjudged(self) -> int:
        """How many could not be judged."""
        return sum(each.differs is None for each in self.samples)

    def chance(self, limit: float) -> float:
        """Return how probable as many or more are where a limit is kept.

        With a second run, that of the paired test where it is the larger.
        """
        if self.rate is None:
            return 1.0
        paired = self._discordance() if self.is_paired else None
        if paired is None:
            return self.rate.chance(limit)
        unlike = paired.chance / 2 if paired.worse > paired.better else 1.0
        return max(self.rate.chance(limit), unlike)

    def _discordance(self) -> Discordance:
        both = [(each.differs, each.control) for each in self.samples]
        return Discordance.of(
            (mine, theirs) for mine, theirs in both if mine is not None and theirs is not None
        )


def in_buckets(
    samples: Iterable[Sample], edges: Sequence[int] | None = None, *, is_paired: bool = False
) -> tuple[Bucket, ...]:
    """Return the buckets that hold a sample, the shortest first.

    Args:
        samples: what was judged.
        edges: the longest length of each bucket, ascending; what is longer has a bucket of its
            own. None: powers of two.
        is_paired: whether the samples were also run by code that is known to be good.
    """
    found: dict[tuple[int, int | None], list[Sample]] = {}
    for each in samples:
        bounds = _doubling(each.length) if edges is None else _between(each.length, edges)
        found.setdefault(bounds, []).append(each)
    return tuple(
        Bucket(low=low, high=high, samples=found[low, high], is_paired=is_paired)
        for low, high in sorted(found, key=lambda bounds: bounds[0])
    )


def worst(buckets: Iterable[Bucket], confidence: float = CONFIDENCE) -> Bucket | None:
    """Return the bucket whose samples surely differ most: the one of the highest lower bound."""
    rated = [(each.rate, each) for each in buckets if each.rate is not None]
    if not rated:
        return None
    return max(rated, key=lambda pair: (pair[0].interval(confidence)[0], pair[0].share))[1]


def beyond_alone(
    buckets: Sequence[Bucket], limit: float, confidence: float = CONFIDENCE
) -> tuple[Bucket, ...]:
    """Return the buckets that break a limit by themselves.

    Whoever looks at many buckets finds one that is beyond by chance: the error that is allowed is
    shared among them (Holm, Scandinavian Journal of Statistics 6, 1979), so that it holds for all
    of them together.
    """
    ordered = sorted(buckets, key=lambda each: each.chance(limit))
    allowed = (1 - confidence) / 2  # as above the upper end of an interval, so below the lower
    kept = 0
    while kept < len(ordered) and ordered[kept].chance(limit) <= allowed / (len(ordered) - kept):
        kept += 1
    return tuple(each for each in buckets if each in ordered[:kept])


def doubling_label(length: int) -> str:
    """Return the range between powers of two that a length falls into: ``5..8``."""
    low, high = _doubling(length)
    return Bucket(low=low, high=high).label


def _doubling(length: int) -> tuple[int, int]:
    if length < 1:
        return 0, 0
    high = 1 << (length - 1).bit_length()
    return high // 2 + 1, high


def _between(length: int, edges: Sequence[int]) -> tuple[int, int | None]:
    place = bisect_left(edges, length)
    low = edges[place - 1] + 1 if place else 1
    return low, edges[place] if place < len(edges) else None
