"""What a survey counted, and what that says of a limit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_falsify.checks.rule import MEASURED, UNCALIBRATED
from pytest_falsify.compare.buckets import (
    Bucket,
    Sample,
    beyond_alone,
    doubling_label,
    in_buckets,
    worst,
)
from pytest_falsify.compare.rates import Discordance, Rate, is_kept

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_falsify.checks.prompt_outcome import PromptOutcome

SHOWN = 5
"""How many prompts that differ are named, and how many reasons why others were not judged."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The outcomes of all prompts beside a limit.

    Attributes:
        limit: how large a share of the prompts may differ.
        confidence: of every interval and test.
        edges: the longest prompt of each bucket, in tokens; None: powers of two.
        is_paired: whether a control was run too.
    """

    outcomes: Sequence[PromptOutcome]
    limit: float
    confidence: float
    edges: Sequence[int] | None = None
    is_paired: bool = False

    @cached_property
    def unjudged(self) -> tuple[PromptOutcome, ...]:
        """The prompts that could not be judged."""
        return tuple(each for each in self.outcomes if each.lack)

    @cached_property
    def judged(self) -> tuple[PromptOutcome, ...]:
        """The prompts that could be judged."""
        return tuple(each for each in self.outcomes if not each.lack)

    @cached_property
    def differing(self) -> tuple[PromptOutcome, ...]:
        """The prompts that could be judged, and whose answer is another one."""
        return tuple(each for each in self.judged if each.subject.differs)

    @property
    def first_differing(self) -> tuple[str, ...]:
        """The names of the first few of them, and whether there are more."""
        ids = tuple(each.id for each in self.differing[:SHOWN])
        return ids if len(ids) == len(self.differing) else (*ids, "...")

    @cached_property
    def rate(self) -> Rate | None:
        """How many of the prompts that could be judged differ; None: none could."""
        if not self.judged:
            return None
        return Rate(count=len(self.differing), total=len(self.judged))

    @cached_property
    def control_rate(self) -> Rate | None:
        """The same of the control."""
        if not self.judged or not self.is_paired:
            return None
        count = sum(bool(each.control and each.control.differs) for each in self.judged)
        return Rate(count=count, total=len(self.judged))

    @cached_property
    def discordance(self) -> Discordance | None:
        """The prompts at which either the subject or the control differs, where there is one."""
        return Discordance.of(self._pairs(self.judged)) if self.is_paired else None

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """The prompts by their length."""
        return self._buckets(lost=None)

    @cached_property
    def beyond(self) -> tuple[Bucket, ...]:
        """The buckets that break the limit by themselves, however many are looked at."""
        return beyond_alone(self.buckets, self.limit, self.confidence)

    @cached_property
    def is_beyond_with_lost(self) -> bool:
        """Whether a bucket would break the limit if all that could not be judged differed."""
        return bool(beyond_alone(self._buckets(lost=True), self.limit, self.confidence))

    @cached_property
    def worst(self) -> Bucket | None:
        """The bucket that surely differs most."""
        return worst(self.buckets, self.confidence)

    def is_kept(self, *, favourably: bool) -> bool | None:
        """Tell whether the limit is kept, with what could not be judged all taken one way.

        Args:
            favourably: as the oracle's answers, and the control's as others; else the other way.
        """
        pairs = [
            *self._pairs(self.judged),
            *((not favourably, favourably) for _ in self.unjudged),
        ]
        return self.is_kept_by(pairs)

    def is_kept_by(self, pairs: Sequence[tuple[bool, bool]]) -> bool | None:
        """Tell whether the limit is kept where these differ, the subject's first.

        Args:
            pairs: of every prompt, whether the subject differs and whether the control does.
        """
        if not pairs:
            return None
        return is_kept(
            Rate(count=sum(mine for mine, _ in pairs), total=len(pairs)),
            self.limit,
            confidence=self.confidence,
            paired=Discordance.of(pairs) if self.is_paired else None,
        )

    def _buckets(self, *, lost: bool | None) -> tuple[Bucket, ...]:
        samples = [
            Sample(
                length=each.tokens,
                differs=lost if each.lack else each.subject.differs,
                control=bool(each.control and each.control.differs),
            )
            for each in self.outcomes
            if each.tokens is not None
        ]
        return in_buckets(samples, self.edges, is_paired=self.is_paired)

    @staticmethod
    def _pairs(outcomes: Sequence[PromptOutcome]) -> list[tuple[bool, bool]]:
        return [
            (bool(each.subject.differs), bool(each.control and each.control.differs))
            for each in outcomes
        ]

    def pairs(self) -> list[tuple[bool, bool]]:
        """Return of every judged prompt whether the subject and the control differ."""
        return self._pairs(self.judged)

    def observed(self) -> dict[str, Any]:
        """Return the numbers as a JSON value."""
        found: dict[str, Any] = {
            "buckets": [self._bucket(each) for each in self.buckets],
            "calibration": MEASURED if self.is_paired else UNCALIBRATED,
            "confidence": self.confidence,
            "differing": [each.id for each in self.differing[:SHOWN]],
            "first_difference": self.places(),
            "limit": self.limit,
            "rate": self._rate(self.rate),
            "resumed": sum(each.is_resumed for each in self.outcomes),
            "unjudged": len(self.unjudged),
            "worst_bucket": self.worst.label if self.worst and self.differing else None,
        }
        if self.unjudged:
            reasons = Counter(each.lack for each in self.unjudged)
            found["unjudged_because"] = dict(reasons.most_common(SHOWN))
        if self.discordance is not None:
            found["control"] = {
                "chance": self.discordance.chance,
                "differs_alone": self.discordance.better,
                "rate": self._rate(self.control_rate),
                "subject_differs_alone": self.discordance.worse,
            }
        return found

    def places(self) -> dict[str, int]:
        """Return how many prompts differ first at which token, from 1, by powers of two."""
        found = Counter(each.subject.at + 1 for each in self.differing)
        labels: Counter[str] = Counter()
        for place in sorted(found):
            labels[doubling_label(place)] += found[place]
        return dict(labels)

    def _bucket(self, bucket: Bucket) -> dict[str, Any]:
        found: dict[str, Any] = {"tokens": bucket.label, **(self._rate(bucket.rate) or {})}
        if bucket.unjudged:
            found["unjudged"] = bucket.unjudged
        if bucket in self.beyond:
            found["is_beyond"] = True
        return found

    def _rate(self, rate: Rate | None) -> dict[str, Any] | None:
        if rate is None:
            return None
        low, high = rate.interval(self.confidence)
        return {
            "differing": rate.count,
            "high": high,
            "low": low,
            "prompts": rate.total,
            "share": rate.share,
        }
