"""Two distributions of which only the best candidates are known: how far apart they may be.

What stands in both lists is known; all else is masses. To lump tokens together never increases an
f-divergence (data processing: Csiszar and Shields, Information Theory and Statistics, 2004, lemma
4.1), so a divergence of lumps is a lower bound of the true one. An upper bound of KL needs every
candidate: a single one that the subject rules out makes it infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.compare.distribution import js_divergence, kl_divergence
from pytest_falsify.compare.tokens import SIGMAS, Change, Choice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pytest_falsify.captures.shortlist import Shortlist

    Array = NDArray[Any]
    Measure = Callable[[Array, Array], Array]

RESOLUTION = 1e-5
"""How exact a told log-probability is: a float32, as a decimal of some digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Between which a divergence lies, in nats."""

    low: float
    high: float


UNSOUND = Bounds(low=math.inf, high=math.inf)
"""Of what is no distribution on either side."""


def sides(bounds: Sequence[Bounds]) -> dict[str, Bounds]:
    """Return between which the mean and the largest of some divergences lie."""
    lows, highs = [each.low for each in bounds], [each.high for each in bounds]
    return {
        "mean": Bounds(low=sum(lows) / len(lows), high=sum(highs) / len(highs)),
        "max": Bounds(low=max(lows), high=max(highs)),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Lumps:
    """Two distributions over the candidates that both lists have, and lumps of all others.

    Attributes:
        oracle: the masses of the common candidates, of the oracle's own, and of its tail.
        subject: the masses there that are nearest to the oracle's of all that may be.
        farthest: those that are farthest, where nothing is lumped together but what both lump
            together; else nothing.
    """

    oracle: tuple[float, ...]
    subject: tuple[float, ...]
    farthest: tuple[float, ...] = ()

    @classmethod
    def of(cls, oracle: Shortlist, subject: Shortlist) -> Lumps:
        """Lump two lists together.

        Of the oracle's own candidates the subject only tells that none is better than its last.
        The divergence is convex in what they have together, and least where that is in proportion.
        """
        theirs, mine = oracle.by_token(), subject.by_token()
        common = [token for token in oracle.tokens if token in mine]
        own = [math.exp(theirs[token]) for token in oracle.tokens if token not in mine]
        x = tuple(math.exp(theirs[token]) for token in common)
        y = tuple(math.exp(mine[token]) for token in common)
        if len(common) == len(theirs) == len(mine) and oracle.is_whole and subject.is_whole:
            return cls(oracle=x, subject=y, farthest=y)
        alone, rest = math.fsum(own), max(0.0, 1.0 - math.fsum(x) - math.fsum(own))
        others = math.fsum(math.exp(mine[token]) for token in mine if token not in theirs)
        left, blur = max(0.0, 1.0 - math.fsum(y)), RESOLUTION
        if subject.is_whole and not own:
            left, blur = others, 0.0
        most = min(subject.tail, len(own) * math.exp(subject.logprobs[-1]))
        share = min(most, left * alone / (alone + rest)) if alone > 0 else 0.0
        return cls(
            oracle=(*x, alone, rest),
            subject=(*y, share + blur, left - share + blur),
            farthest=() if own else (*y, 0.0, max(0.0, left - blur)),
        )

    def least(self, measure: Measure) -> float:
        """Return what a divergence is at least."""
        found = _divergence(measure, self.oracle, self.subject)
        return max(0.0, found - self._slack(self.subject))

    def most(self, measure: Measure) -> float:
        """Return what a divergence of the lumps is at most."""
        if not self.farthest:
            return math.inf
        return _divergence(measure, self.oracle, self.farthest) + self._slack(self.farthest)

    def _slack(self, subject: tuple[float, ...]) -> float:
        """Return by how much rounding can move a divergence of these masses, in nats."""
        lumps = zip(self.oracle[-2:], subject[-2:], strict=True)
        steep = (abs(math.log((x + RESOLUTION) / (y + RESOLUTION))) for x, y in lumps)
        return RESOLUTION * (3.0 + math.fsum(steep))


def _divergence(measure: Measure, oracle: Sequence[float], subject: Sequence[float]) -> float:
    with np.errstate(divide="ignore"):
        both = [np.log(np.array([each])) for each in (oracle, subject)]
    return float(measure(both[0], both[1])[0])


def kl_bounds(oracle: Shortlist, subject: Shortlist) -> Bounds:
    """Return bounds of KL(oracle || subject); the upper one is finite for whole lists only."""
    if not (oracle.is_sound and subject.is_sound):
        return UNSOUND
    lumps = Lumps.of(oracle, subject)
    is_whole = oracle.is_whole and subject.is_whole
    high = lumps.most(kl_divergence) if is_whole else math.inf
    return Bounds(low=lumps.least(kl_divergence), high=high)


def js_bounds(oracle: Shortlist, subject: Shortlist) -> Bounds:
    """Return bounds of the Jensen-Shannon divergence.

    What is not common adds at most half of ln 2 for each unit of its mass on either side.
    """
    if not (oracle.is_sound and subject.is_sound):
        return UNSOUND
    low = Lumps.of(oracle, subject).least(js_divergence)
    theirs, mine = oracle.by_token(), subject.by_token()
    common = [token for token in oracle.tokens if token in mine]
    pairs = [(math.exp(theirs[token]), math.exp(mine[token])) for token in common]
    told = math.fsum(_js_term(x, y) + _js_term(y, x) for x, y in pairs)
    untold = max(0.0, 2.0 - math.fsum(x + y for x, y in pairs)) * math.log(2)
    return Bounds(low=low, high=min(math.log(2), (told + untold) / 2 + 2 * RESOLUTION))


def top_k_bounds(oracle: Shortlist, subject: Shortlist, k: int) -> Bounds:
    """Return bounds of KL over the oracle's k best and one bucket for all others.

    It is known where the subject tells of all k; see ``distribution.top_k_divergence``.
    """
    if not (oracle.is_sound and subject.is_sound):
        return UNSOUND
    lumps = Lumps.of(oracle.best(k), subject)
    is_told = len(oracle.tokens) >= k or oracle.is_whole
    high = lumps.most(kl_divergence) if is_told else math.inf
    return Bounds(low=lumps.least(kl_divergence), high=high)


def _js_term(x: float, y: float) -> float:
    return x * math.log(2 * x / (x + y)) if x > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldChange:
    """A choice of the subject that is not the oracle's, as far as the lists tell.

    Attributes:
        change: the choice; its margin is in log-probabilities, whose differences are those of
            logits.
        is_least: the oracle does not tell of the subject's choice: its margin is no less than this.
    """

    change: Change
    is_least: bool = False

    @property
    def choice(self) -> Choice | None:
        """Whether noise explains it; None where the lists do not tell."""
        if self.is_least and self.change.choice is Choice.TIE:
            return None
        return self.change.choice


def told_changes(
    subject: Shortlist,
    oracle: Shortlist,
    control: Shortlist | None = None,
    *,
    k: int = 1,
    sigmas: float = SIGMAS,
    token: int = 0,
) -> tuple[ToldChange, ...]:
    """Return the members of the subject's top k that are not in the oracle's.

    Args:
        subject: what is known of its choice; at least k candidates.
        oracle: the same of the oracle's.
        control: known-good code; the noise is measured at the candidates that it shares with the
            oracle. Without it only an exact tie is one.
        k: how many are chosen.
        sigmas: how many standard deviations of noise are allowed.
        token: where this is, for messages.
    """
    theirs, known = oracle.tokens[:k], oracle.by_token()
    is_sound = subject.is_sound and oracle.is_sound
    if is_sound:
        weakest, last = oracle.logprobs[len(theirs) - 1], oracle.logprobs[-1]
        foreign = (each for each in subject.tokens[:k] if each not in theirs)
        margins = {each: weakest - known.get(each, last) for each in foreign}
    else:
        margins = {subject.tokens[0]: math.nan}
    told = partial(
        Change, token=token, oracle=theirs[-1], allowance=_allowance(oracle, control, sigmas)
    )
    return tuple(
        ToldChange(
            change=told(subject=each, margin=margin),
            is_least=is_sound and each not in known,
        )
        for each, margin in margins.items()
    )


def _allowance(oracle: Shortlist, control: Shortlist | None, sigmas: float) -> float:
    if control is None or not control.is_sound:
        return 0.0
    known = control.by_token()
    errors = [
        known[token] - logprob
        for token, logprob in zip(oracle.tokens, oracle.logprobs, strict=True)
        if token in known and math.isfinite(known[token] - logprob)
    ]
    return sigmas * math.sqrt(2) * _rms(errors)


def _rms(errors: Sequence[float]) -> float:
    return math.sqrt(math.fsum(each * each for each in errors) / len(errors)) if errors else 0.0
