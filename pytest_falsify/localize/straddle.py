"""The classical bisection: a threshold along a named list of stages.

It tells where a number first falls below a bound, which is where drift became visible and not
always where it was made. Contracts of the field claim it, so it is computed, and said to be that.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_falsify.compare.comparison import Comparison
    from pytest_falsify.stages.vocabulary import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Straddle:
    """A named list of sites under one threshold.

    Attributes:
        pairs: the neighbours of which the first is within the threshold and the second beyond.
        missing: the named sites that were not compared.
        is_first_beyond: the first compared site is beyond already, with nothing before it.
    """

    pairs: tuple[tuple[Site, Site], ...]
    missing: tuple[Site, ...] = ()
    is_first_beyond: bool = False

    @property
    def narrows(self) -> bool:
        """Whether the divergence sits between exactly one pair of neighbours, none left out."""
        return len(self.pairs) == 1 and not self.missing and not self.is_first_beyond

    def __str__(self) -> str:
        if self.missing:
            return f"the chain lacks {len(self.missing)} of its sites, first {self.missing[0]}"
        if self.is_first_beyond:
            return "the first site of the chain is beyond the threshold already"
        if not self.pairs:
            return "no site of the chain is beyond the threshold"
        told = ", ".join(f"{one} and {other}" for one, other in self.pairs)
        return f"the threshold is crossed between {told}"


def straddle(comparison: Comparison, sites: Sequence[Site], *, cosine: float) -> Straddle:
    """Return where a list of sites crosses a threshold of the cosine.

    Args:
        comparison: the subject against the oracle.
        sites: in the order of the chain.
        cosine: what is still within.
    """
    seen = {each.site: each.total.cosine >= cosine for each in comparison.sites}
    shown = [each for each in sites if each in seen]
    pairs = [(one, other) for one, other in pairwise(shown) if seen[one] and not seen[other]]
    return Straddle(
        pairs=tuple(pairs),
        missing=tuple(each for each in sites if each not in seen),
        is_first_beyond=bool(shown) and not seen[shown[0]],
    )
