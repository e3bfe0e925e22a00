"""Choices among logits: a flip within the local noise is a tie, any other is a flip.

The noise of a token is the root mean square of the control's error in that token's logits. A flip
needs the difference of two logits to change its sign, and the difference of two has sqrt(2) times
the noise of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.errors import AlignmentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

SIGMAS = 4.0
"""How many standard deviations of noise a margin may be overcome by: 1 in 30,000 by chance."""


class Choice(Enum):
    """What became of a choice."""

    TIE = "tie"
    FLIP = "flip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One choice of the subject that is not the oracle's.

    Attributes:
        token: the index of the token along the first axis.
        oracle: what the oracle chose; for the top k, the weakest of its k.
        subject: what the subject chose instead.
        margin: by how much the oracle prefers its own choice, in its logits; NaN where a logit of
            the token is NaN or +inf on either side.
        allowance: the margin that noise can overcome; 0 without a control.
    """

    token: int
    oracle: int
    subject: int
    margin: float
    allowance: float

    @property
    def choice(self) -> Choice:
        """Whether noise explains it; NaN explains nothing."""
        return Choice.TIE if self.margin <= self.allowance else Choice.FLIP


def top_changes(
    subject: Array,
    oracle: Array,
    control: Array | None = None,
    *,
    k: int = 1,
    sigmas: float = SIGMAS,
) -> tuple[Change, ...]:
    """Return the members of the subject's top k that are not in the oracle's, token by token.

    With k = 1 these are the flips of the greedy choice. The order within the top k does not count.

    Args:
        subject: logits, (tokens, choices).
        oracle: logits, (tokens, choices).
        control: logits of known-good code at the subject's precision; without it only an exact tie
            in the oracle is one.
        k: how many are chosen.
        sigmas: how many standard deviations of noise are allowed.

    Raises:
        AlignmentError: when the shapes differ, or there are fewer than k choices.
    """
    shapes = {each.shape for each in (subject, oracle, control) if each is not None}
    if len(shapes) != 1 or oracle.ndim != 2 or not 1 <= k <= oracle.shape[1]:  # noqa: PLR2004
        msg = f"cannot compare the {k} best of logits of shapes {sorted(shapes)}"
        raise AlignmentError(msg, expected="one shape (tokens, choices) with at least k choices")
    x, y = oracle.astype(np.float64), subject.astype(np.float64)
    theirs, mine = _top(x, k), _top(y, k)
    allowances = _allowances(x, control, sigmas)
    is_broken = ~(_is_ordered(x) & _is_ordered(y))
    is_foreign = (mine[:, :, np.newaxis] != theirs[:, np.newaxis, :]).all(axis=2)
    is_foreign[is_broken, 0] = True
    found = []
    for token, place in np.argwhere(is_foreign):
        left_out, taken = theirs[token, -1], mine[token, place]
        margin = math.nan if is_broken[token] else float(x[token, left_out] - x[token, taken])
        found.append(
            Change(
                token=int(token),
                oracle=int(left_out),
                subject=int(taken),
                margin=margin,
                allowance=float(allowances[token]),
            )
        )
    return tuple(found)


def _is_ordered(logits: Array) -> Array:
    """Tell which rows have a best choice: no NaN and no +inf; -inf is a choice ruled out."""
    return np.asarray((logits < np.inf).all(axis=-1))


def _top(logits: Array, k: int) -> Array:
    """Return the k largest of each row, best first; equal ones in the order of their ids."""
    return np.argsort(-logits, axis=-1, kind="stable")[:, :k]


def _allowances(oracle: Array, control: Array | None, sigmas: float) -> Array:
    if control is None:
        return np.zeros(len(oracle))
    with np.errstate(invalid="ignore"):
        errors = np.where(oracle == -np.inf, 0.0, control.astype(np.float64) - oracle)
        noise = np.sqrt(np.mean(errors**2, axis=-1))
    return np.where(np.isfinite(noise), sigmas * math.sqrt(2) * noise, 0.0)
