"""What one pass over a pair of tensors leaves behind, and everything that is derived from it.

The sums are stored, the metrics are computed from them: so a pair can be judged again by another
metric or another limit without its tensors. Throughout, x is the oracle, y the subject and
d = y - x. A sum runs over the pairs in which both values are finite.

Nothing here returns NaN, except ``scale``, which has no worst side. What cannot be computed is
given the worst value of its metric, so that no comparison with a limit can pass by accident.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from pytest_falsify.compare.tally import Tally, merge_tallies

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SMALLEST_SQUARE = 1e-280
"""Sums of squares below this (float64 values near 1e-140) have lost digits to underflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairStatistics:
    """The facts of a pair of equally long sequences of values.

    Attributes:
        n: how many pairs.
        finite: pairs in which both values are finite.
        nonfinite_x: values of the oracle that are NaN or infinite.
        nonfinite_y: values of the subject that are NaN or infinite.
        nonfinite_mismatch: pairs with a NaN on either side, both sides included, or with an
            infinity that the other side does not have with the same sign.
        mismatched: pairs whose bits differ; of values, where the dtypes differ.
        max_ulp: the largest distance in units in the last place of the coarser dtype; for
            integers the largest difference.
        max_abs_d: the largest |d| of the finite pairs.
        where: the index of the first non-finite mismatch, else of the largest |d|.
        tally: counts that were asked for, or None.
    """

    n: int = 0
    finite: int = 0
    nonfinite_x: int = 0
    nonfinite_y: int = 0
    nonfinite_mismatch: int = 0
    mismatched: int = 0
    max_ulp: int = 0
    where: int = 0
    sum_x2: float = 0.0
    sum_y2: float = 0.0
    sum_d2: float = 0.0
    sum_abs_d: float = 0.0
    sum_d: float = 0.0
    sum_xd: float = 0.0
    max_abs_d: float = 0.0
    tally: Tally | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was compared."""
        return self.n == 0

    @property
    def is_sound(self) -> bool:
        """Whether there is something to judge and no NaN or stray infinity in it."""
        return self.n > 0 and self.nonfinite_mismatch == 0

    @property
    def is_bit_equal(self) -> bool:
        """Whether all bits agree and none of them spells NaN."""
        return self.is_sound and self.mismatched == 0

    @property
    def is_equal(self) -> bool:
        """Whether all values agree: bit-equal up to the sign of zero."""
        return self.is_sound and self.max_abs_d == 0 and (self.mismatched == 0 or self.max_ulp == 0)

    @property
    def rel_l2(self) -> float:
        """|d| / |x|, the primary number.

        0 for equal values; infinite when nothing was compared, at a non-finite mismatch, for a
        zero oracle with a subject that is not, and outside of float64's range of squares.
        """
        if self.is_equal:
            return 0.0
        if not self.is_sound or not _is_measurable(self.sum_x2, self.sum_d2):
            return math.inf
        return math.sqrt(self.sum_d2) / math.sqrt(self.sum_x2)

    @property
    def one_minus_cosine(self) -> float:
        """1 - cos of the angle between x and y, without the cancellation of the naive formula.

        (|d|^2 - (|y| - |x|)^2) / (2 |x| |y|), with |y| - |x| = (2 x.d + |d|^2) / (|x| + |y|).
        2 (the opposite direction) where it is undefined: see ``rel_l2``, or a subject of zeros.
        """
        if self.is_equal:
            return 0.0
        if not self.is_sound or not _is_measurable(self.sum_x2, self.sum_y2, self.sum_d2):
            return 2.0
        norm_x, norm_y = math.sqrt(self.sum_x2), math.sqrt(self.sum_y2)
        growth = (2 * self.sum_xd + self.sum_d2) / (norm_x + norm_y)
        return min(2.0, max(0.0, (self.sum_d2 - growth * growth) / (2 * norm_x * norm_y)))

    @property
    def cosine(self) -> float:
        """The cosine of the angle between x and y, from ``one_minus_cosine``."""
        return 1.0 - self.one_minus_cosine

    @property
    def nmse_db(self) -> float:
        """10 log10(sum d^2 / sum x^2); minus infinity for equal values."""
        error = self.rel_l2
        return 20 * math.log10(error) if error > 0 else -math.inf

    @property
    def snr_db(self) -> float:
        """Signal to noise in decibels, the negative of ``nmse_db``."""
        return -self.nmse_db

    @property
    def rms(self) -> float:
        """The root of the mean of d^2 over the finite pairs."""
        return math.sqrt(self.sum_d2 / self.finite) if self._has_finite else self._worst

    @property
    def mean_abs(self) -> float:
        """The mean of |d| over the finite pairs."""
        return self.sum_abs_d / self.finite if self._has_finite else self._worst

    @property
    def max_abs(self) -> float:
        """The largest |d|; infinite at a non-finite mismatch."""
        return self.max_abs_d if self.is_sound else math.inf

    @property
    def bias(self) -> float:
        """The mean of d over the finite pairs, with its sign."""
        return self.sum_d / self.finite if self._has_finite else self._worst

    @property
    def scale(self) -> float:
        """The a for which a x fits y best, x.y / x.x = 1 + x.d / x.x; NaN where undefined."""
        if self.is_equal:
            return 1.0
        if not self.is_sound or not _is_measurable(self.sum_x2):
            return math.nan
        return 1.0 + self.sum_xd / self.sum_x2

    @property
    def sum_xy(self) -> float:
        """The sum of x y, as x.x + x.d."""
        return self.sum_x2 + self.sum_xd

    @property
    def _has_finite(self) -> bool:
        return self.is_sound and self.finite > 0

    @property
    def _worst(self) -> float:
        return 0.0 if self.is_equal else math.inf

    def merge(self, following: PairStatistics) -> PairStatistics:
        """Return the statistics of these pairs and the following ones: concatenation.

        ``PairStatistics()`` is its neutral element. Counts, maxima and places are associative
        exactly, sums to within a rounding; ``merge_all`` rounds once, however the parts are cut.
        """
        return merge_all((self, following))

    def to_json(self) -> dict[str, Any]:
        """Return the stored facts as a JSON value; a number that is not finite becomes a word."""
        facts = {each.name: getattr(self, each.name) for each in fields(self)}
        counts = facts.pop("tally")
        spelled = {name: _spelled(fact) for name, fact in facts.items()}
        return spelled if counts is None else spelled | {"tally": counts.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PairStatistics:
        """Read what ``to_json`` returned.

        Raises:
            TypeError: when a name is not one of the facts.
        """
        facts: dict[str, Any] = {
            name: float(fact) if isinstance(fact, str) else fact for name, fact in value.items()
        }
        if "tally" in facts:
            facts["tally"] = Tally.from_json(facts["tally"])
        return cls(**facts)


COUNTS = ("n", "finite", "nonfinite_x", "nonfinite_y", "nonfinite_mismatch", "mismatched")
SUMS = ("sum_x2", "sum_y2", "sum_d2", "sum_abs_d", "sum_d", "sum_xd")


def merge_all(parts: Iterable[PairStatistics]) -> PairStatistics:
    """Return the statistics of all parts one after the other; each sum is rounded once.

    Counts that were not made of every part are not known of the whole.
    """
    every = tuple(parts)
    facts: dict[str, Any] = {name: sum(getattr(part, name) for part in every) for name in COUNTS}
    facts |= {name: exact_sum(getattr(part, name) for part in every) for name in SUMS}
    return PairStatistics(
        **facts,
        max_ulp=max((part.max_ulp for part in every), default=0),
        max_abs_d=max((part.max_abs_d for part in every), default=0.0),
        where=_first_worst(every),
        tally=_merged_tally(every),
    )


def _merged_tally(parts: tuple[PairStatistics, ...]) -> Tally | None:
    counted = [part.tally for part in parts if not part.is_empty]
    known = [each for each in counted if each is not None]
    return merge_tallies(known) if known and len(known) == len(counted) else None


def exact_sum(values: Iterable[float]) -> float:
    """Return the correctly rounded sum; infinite when it leaves float64's range."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return math.inf


def _first_worst(parts: tuple[PairStatistics, ...]) -> int:
    start, best, place = 0, (False, 0.0), 0
    for part in parts:
        key = (part.nonfinite_mismatch > 0, part.max_abs_d)
        if key > best and not best[0]:
            best, place = key, start + part.where
        start += part.n
    return place


def _is_measurable(*squares: float) -> bool:
    return all(SMALLEST_SQUARE <= square < math.inf for square in squares)


def _spelled(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)
