"""What is known of a next token where nobody shows the logits: the best candidates, and a tail."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_CERTAIN = 1e-4
"""A log-probability of 0, as it may have been rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortlist:
    """The best candidates for one token with their log-probabilities, the best first.

    Attributes:
        tokens: their token ids.
        logprobs: natural logarithms of their probabilities among the whole vocabulary.
        vocabulary: how many candidates there are in all, where that is known.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    vocabulary: int | None = None

    @classmethod
    def of(cls, candidates: Iterable[tuple[int, float]], vocabulary: int | None) -> Shortlist:
        """Return the list of some candidates, put in order; equal ones in the order of ids."""
        # A NaN has no place in an order: it comes first, where nothing can overlook it.
        ordered = sorted(
            candidates,
            key=lambda each: (-math.inf if math.isnan(each[1]) else -each[1], each[0]),
        )
        return cls(
            tokens=tuple(token for token, _ in ordered),
            logprobs=tuple(logprob for _, logprob in ordered),
            vocabulary=vocabulary,
        )

    @classmethod
    def of_logits(cls, logits: np.ndarray[Any, Any]) -> Shortlist:
        """Return the whole list that the logits of one token are, ``(vocabulary,)``."""
        wide = logits.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            shifted = wide - wide.max()
            logprobs = shifted - np.log(np.exp(shifted).sum())
        order = np.argsort(-logprobs, kind="stable")
        return cls(
            tokens=tuple(order.tolist()),
            logprobs=tuple(logprobs[order].tolist()),
            vocabulary=len(logprobs),
        )

    @property
    def is_sound(self) -> bool:
        """Whether it is part of a distribution: no NaN, and nothing above certainty."""
        return bool(self.tokens) and all(each < _CERTAIN for each in self.logprobs)

    @property
    def is_whole(self) -> bool:
        """Whether every candidate that there is stands in it."""
        return len(self.tokens) == self.vocabulary

    @property
    def mass(self) -> float:
        """The probability of all that stand in it."""
        return min(1.0, math.fsum(map(math.exp, self.logprobs)))

    @property
    def tail(self) -> float:
        """The probability of all others together: one bucket, never negative."""
        return 0.0 if self.is_whole else 1.0 - self.mass

    @property
    def margin(self) -> float:
        """By how much the best is preferred to the second, as in logits; inf if it is alone."""
        return self.logprobs[0] - self.logprobs[1] if len(self.logprobs) > 1 else math.inf

    def by_token(self) -> dict[int, float]:
        """Return the log-probabilities by token id."""
        return dict(zip(self.tokens, self.logprobs, strict=True))

    def best(self, count: int) -> Shortlist:
        """Return the list cut after its ``count`` best."""
        return Shortlist(
            tokens=self.tokens[:count],
            logprobs=self.logprobs[:count],
            vocabulary=self.vocabulary,
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON value; a NaN is null."""
        logprobs = [each if math.isfinite(each) else None for each in self.logprobs]
        return {"tokens": list(self.tokens), "logprobs": logprobs, "vocabulary": self.vocabulary}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Shortlist:
        """Read what ``to_json`` wrote."""
        return cls(
            tokens=tuple(body["tokens"]),
            logprobs=tuple(math.nan if each is None else float(each) for each in body["logprobs"]),
            vocabulary=body["vocabulary"],
        )


Shortlists = tuple[tuple[Shortlist, ...], ...]
"""Those of a run, one tuple a step: of step 0 for the last tokens of the prefill, then one each."""


def shortlists_to_json(shortlists: Shortlists) -> list[list[dict[str, Any]]]:
    """Return the shortlists of a run as a JSON value."""
    return [[each.to_json() for each in step] for step in shortlists]


def shortlists_from_json(body: Sequence[Sequence[Mapping[str, Any]]]) -> Shortlists:
    """Read what ``shortlists_to_json`` wrote."""
    return tuple(tuple(Shortlist.from_json(each) for each in step) for step in body)
