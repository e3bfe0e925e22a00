"""One prompt's answer marked against the oracle's: the same, another one, or not to be told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.served import told, untold
from pytest_falsify.checks.tokens import NEW_TOKENS, first_difference
from pytest_falsify.compare.distribution import kl_divergence, log_softmax
from pytest_falsify.compare.shortlists import kl_bounds
from pytest_falsify.errors import AlignmentError
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.captures.shortlist import Shortlist
    from pytest_falsify.checks.claim import Claim

    Array = NDArray[Any]

ARGMAX, TOKENS, KL = "argmax", "tokens", "kl"
OUTCOME: Mapping[str, Any] = {
    "description": "what is counted of a prompt: that its next token is another, that one of "
    "`new_tokens` greedy tokens is, or that the next token's distribution is farther than this",
    "oneOf": [
        {"enum": [ARGMAX, TOKENS]},
        {
            "type": "object",
            "properties": {
                KL: {
                    "type": "object",
                    "properties": {"max": {"type": "number", "minimum": 0}},
                    "required": ["max"],
                    "additionalProperties": False,
                    "description": "`max`: KL(oracle || subject) in nats",
                }
            },
            "required": [KL],
            "additionalProperties": False,
        },
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What one answer is beside the oracle's.

    Attributes:
        differs: whether it is another one; None: that cannot be told.
        at: the index of the first token that differs, where one does.
        why: why it cannot be told.
    """

    differs: bool | None
    at: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about every prompt.

    Attributes:
        kind: ``argmax``, ``tokens`` or ``kl``.
        new_tokens: how many tokens are decoded for ``tokens``.
        limit: how far, in nats, the distribution may be for ``kl``.
    """

    kind: str
    new_tokens: int = NEW_TOKENS
    limit: float = 0.0

    @classmethod
    def of(cls, claim: Claim) -> Self:
        """Return what a claim counts."""
        stated = claim.parameter("outcome")
        wanted = claim.parameter("new_tokens", NEW_TOKENS)
        if isinstance(stated, str):
            return cls(kind=stated, new_tokens=wanted)
        return cls(kind=KL, limit=stated[KL]["max"])

    @property
    def plan(self) -> Plan:
        """What a run has to answer; no stage is observed."""
        return Plan(decode_steps=self.new_tokens if self.kind == TOKENS else 0)

    def mark(self, subject: Capture, oracle: Capture) -> Mark:
        """Mark an answer. NaN never agrees; what the oracle cannot answer cannot be told.

        Raises:
            AlignmentError: when the two choose from vocabularies of different sizes.
        """
        if subject.inputs.tokens != oracle.inputs.tokens:
            return Mark(differs=None, why="the tokenizers make different tokens of it")
        if self.kind == TOKENS:
            return self._of_tokens(subject, oracle)
        given = {"subject": has_answer(subject), "oracle": has_answer(oracle)}
        if lack := next((role for role, is_given in given.items() if not is_given), None):
            return Mark(differs=None, why=f"no logits of the {lack}")
        if self.kind == ARGMAX:
            return _of_argmax(subject, oracle)
        return self._of_kl(subject, oracle)

    def answer(self, capture: Capture) -> tuple[int, ...]:
        """Return the tokens that a run chose; of ``kl`` there are none."""
        if self.kind == KL:
            return ()
        return capture.continuation if self.kind == TOKENS else best(capture)[:1]

    def faulty(self, subject: Capture) -> Iterator[tuple[str, Capture]]:
        """Yield copies of a run, each with another answer, and what was done to them."""
        if subject.logits and subject.logits[0].size:
            last = subject.logits[0][-1:]
            yield "NaN", _answering(subject, np.full_like(last, np.nan))
            if self.kind != TOKENS:
                yield "another token's logits", _answering(subject, np.roll(last, 1, axis=1))
        if self.kind == TOKENS and subject.continuation:
            *before, last_token = subject.continuation
            yield "wrong last token", replace(subject, continuation=(*before, last_token + 1))
        elif self.kind != TOKENS and subject.shortlists and subject.shortlists[0]:
            yield from _faulty_lists(self.kind, subject, subject.shortlists[0][-1])

    def _of_tokens(self, subject: Capture, oracle: Capture) -> Mark:
        wanted = self.new_tokens
        subject, oracle = (
            replace(each, continuation=each.continuation[:wanted]) for each in (subject, oracle)
        )
        if _first_broken(oracle, wanted) is not None:
            return Mark(differs=None, why="the oracle's logits are not finite")
        found = (first_difference(subject, oracle), _first_broken(subject, wanted))
        places = [each for each in found if each is not None]
        if places:
            return Mark(differs=True, at=min(places))
        if min(len(subject.continuation), len(oracle.continuation)) < wanted:
            why = f"fewer than {number_of(wanted, 'token was', 'tokens were')} decoded"
            return Mark(differs=None, why=why)
        for role, each in (("subject", subject), ("oracle", oracle)):
            if (step := untold(each)) is not None:
                return Mark(differs=None, why=f"the {role} told no candidates of step {step}")
        return Mark(differs=False)

    def _of_kl(self, subject: Capture, oracle: Capture) -> Mark:
        if subject.shortlists or oracle.shortlists:
            return self._of_lists(told(subject, 0, 1)[0], told(oracle, 0, 1)[0])
        theirs, mine = (_next_logits(each) for each in (oracle, subject))
        if theirs is None or mine is None:
            return Mark(differs=None, why="no logits of the whole vocabulary")
        if theirs.shape != mine.shape:
            msg = f"logits of {theirs.shape[-1]} and {mine.shape[-1]} choices"
            raise AlignmentError(msg, expected="the same vocabulary")
        if np.isnan(log_softmax(theirs)).any():
            return Mark(differs=None, why="the oracle's logits are not finite")
        divergence = float(kl_divergence(theirs, mine)[0])
        return Mark(differs=not divergence <= self.limit)

    def _of_lists(self, subject: Shortlist, oracle: Shortlist) -> Mark:
        if not oracle.is_sound:
            return Mark(differs=None, why="the oracle's log-probabilities are no distribution")
        bounds = kl_bounds(oracle, subject)
        if bounds.low <= self.limit < bounds.high:
            why = f"KL is between {bounds.low:.3g} and {bounds.high:.3g} nats by what servers tell"
            return Mark(differs=None, why=f"{why}: ask for more (`top`)")
        return Mark(differs=bounds.low > self.limit)


def _faulty_lists(kind: str, subject: Capture, told: Shortlist) -> Iterator[tuple[str, Capture]]:
    faults = {"other tokens": replace(told, tokens=tuple(each + 1 for each in told.tokens))}
    if kind == KL:
        nans = (float("nan"),) * len(told.logprobs)
        faults = {"NaN": replace(told, logprobs=nans)}
        faults["reversed"] = replace(told, tokens=told.tokens[::-1])
    yield from ((name, replace(subject, shortlists=((each,),))) for name, each in faults.items())


def has_answer(capture: Capture) -> bool:
    """Tell whether a run told anything of the next token."""
    return _next_logits(capture) is not None or bool(capture.shortlists and capture.shortlists[0])


def best(capture: Capture) -> tuple[int, ...]:
    """Return the tokens that a run finds most likely next, more than one where they tie exactly.

    Nothing where no logit or log-probability says it, or one is NaN or +inf.
    """
    logits = _next_logits(capture)
    if logits is not None:
        row = logits[0].astype(np.float64)
        if not _has_best(row):
            return ()
        return tuple(map(int, np.flatnonzero(row == row.max())))
    if capture.shortlists and capture.shortlists[0] and capture.shortlists[0][-1].is_sound:
        shortlist = capture.shortlists[0][-1]
        pairs = zip(shortlist.tokens, shortlist.logprobs, strict=True)
        return tuple(token for token, value in pairs if value == shortlist.logprobs[0])
    return ()


def _of_argmax(subject: Capture, oracle: Capture) -> Mark:
    theirs, mine = best(oracle), best(subject)
    if not theirs:
        return Mark(differs=None, why="the oracle's logits are not finite")
    return Mark(differs=not mine or mine[0] not in theirs)


def _next_logits(capture: Capture) -> Array | None:
    """Return the logits of the token after the prompt: (1, vocabulary)."""
    if not capture.logits or not capture.logits[0].size:
        return None
    last: Array = capture.logits[0][-1:]
    return last


def _first_broken(capture: Capture, steps: int) -> int | None:
    """Return the first step whose logits, or what a server told in their place, have no best."""
    if capture.shortlists is not None:
        lasts = (each[-1:] for each in capture.shortlists[:steps])
        sound = (all(one.is_sound for one in each) for each in lasts)
        return next((step for step, is_sound in enumerate(sound) if not is_sound), None)
    rows = (each[-1] for each in capture.logits[:steps] if each.size)
    return next((step for step, row in enumerate(rows) if not _has_best(row)), None)


def _has_best(row: Array) -> bool:
    """Tell whether logits have a best choice; -inf is a choice ruled out."""
    wide = row.astype(np.float64)
    return bool((wide < np.inf).all() and wide.max() > -np.inf)


def _answering(subject: Capture, logits: Array) -> Capture:
    return replace(subject, logits=(logits, *subject.logits[1:]))
