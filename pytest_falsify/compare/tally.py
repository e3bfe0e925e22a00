"""Counts of a pair that are made only when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Tolerance:
    """What `numpy.allclose` allows: |y - x| <= atol + rtol |x|, with x the oracle."""

    atol: float
    rtol: float

    def __str__(self) -> str:
        return f"atol: {self.atol:g}, rtol: {self.rtol:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts of a sequence of pairs of values.

    Attributes:
        n: how many pairs.
        ulps: how many finite pairs are 0, 1, 2..3, 4..7, 8..15, ... units in the last place apart,
            up to the last bucket that holds any.
        exceeds: by tolerance, how many pairs go beyond it; a NaN and an infinity that the other
            side does not have do.
    """

    n: int = 0
    ulps: tuple[int, ...] = ()
    exceeds: Mapping[Tolerance, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a JSON value."""
        counts = [
            {"atol": each.atol, "rtol": each.rtol, "count": count}
            for each, count in sorted(self.exceeds.items())
        ]
        return {"n": self.n, "ulps": list(self.ulps), "exceeds": counts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tally:
        """Read what ``to_json`` returned."""
        return cls(
            n=value["n"],
            ulps=tuple(value["ulps"]),
            exceeds={
                Tolerance(atol=each["atol"], rtol=each["rtol"]): each["count"]
                for each in value["exceeds"]
            },
        )


def merge_tallies(parts: Iterable[Tally]) -> Tally:
    """Return the counts of all parts one after the other; ``Tally()`` is the neutral element.

    A tolerance is kept when it was counted in every part that is not empty.
    """
    every = [part for part in parts if part.n]
    shared = set.intersection(*(set(part.exceeds) for part in every)) if every else set()
    return Tally(
        n=sum(part.n for part in every),
        ulps=tuple(map(sum, zip_longest(*(part.ulps for part in every), fillvalue=0))),
        exceeds={each: sum(part.exceeds[each] for part in every) for each in sorted(shared)},
    )
