"""How a subject turned its heads: by how much a token, and how far ahead, measured pair by pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.localize.fitting import DEVIATIONS, Fitted, proportional

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FEWEST_TOKENS = 4
"""With fewer a slope is not known from its scatter."""
FARTHEST = 4096
"""How many positions a subject may be ahead or behind, and be found to be."""
TRIG_ERROR = 2 * float(np.finfo(np.float32).eps)
"""Engines compute angles in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """The rotation of one operation, by pairs of channels.

    Attributes:
        right: (pairs,) by how many radians a token right code turns.
        speed: (pairs,) by how many the subject does.
        error: (pairs,) standard errors of ``speed``; infinite where it cannot be known.
        ahead: (pairs,) complex, the mean of what turns the right result into the subject's.
    """

    right: Array
    speed: Array
    error: Array
    ahead: Array

    @classmethod
    def of(cls, before: Array, after: Array, turn: Array, right: Array) -> Rotation:
        """Measure a rotation.

        Args:
            before: (tokens, heads, 2 pairs) what is turned, a pair's channels half of them apart.
            after: (tokens, heads, 2 pairs) the subject's result.
            turn: (tokens, pairs) complex, what right code turns each token by.
            right: (pairs,) by how many radians more it turns from one token to the next.
        """
        given, found = _pairs(before), _pairs(after)
        between = (found * given.conj()).sum(axis=1) * turn.conj()
        faster, error = _speeds(between)
        return cls(
            right=right,
            speed=right + faster,
            error=np.hypot(error, TRIG_ERROR * np.abs(right)),
            ahead=between.mean(axis=0),
        )

    def power(self) -> Fitted | None:
        """Return the power of the right frequencies that the subject's are: another base.

        Frequencies are base^(-2i/d) (Su et al., RoFormer, 2021), so with another base the logarithm
        of each is multiplied by the same number.
        """
        clear = (self.speed > DEVIATIONS * self.error) & (self.right > 0)
        if not clear.any():
            return None
        speed = self.speed[clear]
        weights = (speed / self.error[clear]) ** 2
        return proportional(np.log(self.right[clear]), np.log(speed), weights)

    def factor(self) -> Fitted | None:
        """Return by what the right frequencies are divided: linear scaling."""
        known = np.isfinite(self.error)
        found = proportional(self.right[known], self.speed[known], self.error[known] ** -2.0)
        if found is None or found.value <= 0:
            return None
        return Fitted(value=1 / found.value, error=found.error / found.value**2)

    def offset(self) -> int:
        """Return by how many positions the subject is ahead: the one that fits best.

        Every pair is then ahead by the offset times its frequency.
        """
        tried = np.arange(-FARTHEST, FARTHEST + 1)
        fits = np.exp(-1j * np.outer(tried, self.right)) @ self.ahead
        return int(tried[np.argmax(fits.real)])


def _pairs(heads: Array) -> Array:
    half = heads.shape[-1] // 2
    found: Array = heads[..., :half].astype(np.complex128) + 1j * heads[..., half:]
    return found


def _speeds(turned: Array) -> tuple[Array, Array]:
    """Return by how much each column's phase grows a row, and the standard error of that.

    The phase is followed over ever longer distances: what is known over a short one tells how many
    whole turns a longer one has. The last word has a line through all phases.

    Args:
        turned: (rows, columns) complex; a longer number counts more.
    """
    rows = len(turned)
    speed = np.zeros(turned.shape[1])
    distance = 1
    while distance < rows:
        over = (turned[distance:] * turned[:-distance].conj()).sum(axis=0)
        speed += np.angle(over * np.exp(-1j * speed * distance)) / distance
        distance *= 2
    return _line(turned, speed)


def _line(turned: Array, speed: Array) -> tuple[Array, Array]:
    """Return speeds made better by a line through the phases that they leave, and their errors.

    A pair that hardly turns can lose all of its turning to rounding and scatter not at all, so no
    pair is taken to be more certain than is usual among them.
    """
    rows = len(turned)
    weights = np.abs(turned)
    usual = weights.mean(axis=0)
    if rows < FEWEST_TOKENS or not (usual > 0).any():
        return speed, np.full(len(speed), math.inf)
    weights = weights / np.where(usual > 0, usual, 1.0)
    places = np.arange(rows)[:, None]
    left = turned * np.exp(-1j * speed * places)
    phases = np.angle(left * left.sum(axis=0).conj())
    centred = places - (weights * places).mean(axis=0)
    spread = (weights * centred**2).sum(axis=0)
    known = np.where(spread > 0, spread, math.inf)
    slope = (weights * centred * phases).sum(axis=0) / known
    scatter = (weights * (phases - slope * centred) ** 2).sum(axis=0) / (rows - 2)
    scatter = np.maximum(scatter, np.median(scatter[usual > 0]))
    return speed + slope, np.where(spread > 0, np.sqrt(scatter / known), math.inf)
