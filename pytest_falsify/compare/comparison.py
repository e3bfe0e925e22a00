"""Two captures side by side, one site at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from pytest_falsify.captures.sketch import alike
from pytest_falsify.compare.align import TOKENS, align
from pytest_falsify.compare.counting import tally
from pytest_falsify.compare.kernels import pair_sums
from pytest_falsify.compare.statistics import PairStatistics
from pytest_falsify.errors import AlignmentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_falsify.captures.capture import Capture, CapturedTensor
    from pytest_falsify.compare.rows import RowSums
    from pytest_falsify.compare.tally import Tolerance
    from pytest_falsify.stages.vocabulary import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteComparison:
    """The statistics of one site.

    A row is the last axis of the tensor: one token's vector, one head's of one token.

    Attributes:
        total: over the whole tensor.
        worst_row: of the row with the largest relative L2 error.
        worst: the index of that row in ``rows``, or None when there is no row.
        rows: of every row, in C order.
        dims: the axes of the tensors as they were compared.
        shape: their lengths.
        positions: the token positions along ``t``.
        dtypes: the subject's and the oracle's.
        is_estimate: sketches were compared: the errors are estimates, and no bits were seen.
    """

    site: Site
    total: PairStatistics
    worst_row: PairStatistics
    worst: int | None
    rows: RowSums
    dims: str
    shape: tuple[int, ...]
    positions: tuple[int, ...]
    dtypes: tuple[str, str]
    is_estimate: bool = False

    @property
    def is_identical(self) -> bool:
        """Whether the tensors have the same bits and the same dtype."""
        is_same = self.total.is_bit_equal and self.dtypes[0] == self.dtypes[1]
        return is_same and not self.is_estimate

    @property
    def worst_position(self) -> Mapping[str, int]:
        """Where the worst row is: see ``row_position``."""
        return {} if self.worst is None else self.row_position(self.worst)

    @property
    def largest_position(self) -> Mapping[str, int]:
        """Where the first non-finite mismatch is, else the largest difference: all axes."""
        if self.total.is_empty:
            return {}
        return _position(self.total.where, self._axes, self.shape, self.positions)

    def row_position(self, index: int) -> Mapping[str, int]:
        """Return where a row is: its axes by name, all but the last; ``t`` is a token position."""
        rows = len(self._axes) - 1 if len(self._axes) > 1 else 0
        return _position(index, self._axes[:rows], self.shape[:rows], self.positions)

    @property
    def _axes(self) -> tuple[str, ...]:
        return tuple(self.dims.split())


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The statistics of two captures.

    Attributes:
        sites: what both sides show, in causal order.
        missing: what was planned, or one side shows, and the other does not; in causal order.
        subject: the digest of what ran as the subject.
        oracle: the digest of what ran as the oracle.
    """

    sites: tuple[SiteComparison, ...]
    missing: tuple[Site, ...]
    subject: str
    oracle: str

    @property
    def is_empty(self) -> bool:
        """Whether not one value was compared."""
        return all(each.total.is_empty for each in self.sites)

    @cached_property
    def worst(self) -> SiteComparison:
        """The first site with the largest relative L2 error.

        Raises:
            AlignmentError: when no site was compared.
        """
        if not self.sites:
            lacking = f"; {len(self.missing)} were shown by one side alone" if self.missing else ""
            msg = f"no site was compared{lacking}"
            raise AlignmentError(msg, expected="captures that show a site in common")
        return max(self.sites, key=lambda each: each.total.rel_l2)

    def first_beyond(
        self, limit: float, *, row_limit: float | None = None
    ) -> SiteComparison | None:
        """Return the first site whose relative L2 error, or its worst row's, is beyond a limit."""
        for each in self.sites:
            is_within = each.total.rel_l2 <= limit
            if not is_within or (row_limit is not None and each.worst_row.rel_l2 > row_limit):
                return each
        return None

    def at(self, site: Site) -> SiteComparison | None:
        """Return the statistics of a site, or None when it was not compared."""
        return next((each for each in self.sites if each.site == site), None)


def compare_captures(subject: Capture, oracle: Capture) -> Comparison:
    """Compare two captures of one input at every site that either was to show.

    Raises:
        AlignmentError: when the inputs differ, or the tensors of a site are not one population.
    """
    if subject.inputs.digest != oracle.inputs.digest:
        msg = (
            f"the runs were fed different tokens: subject {len(subject.inputs.tokens)} of "
            f"`{subject.inputs.name}`, oracle {len(oracle.inputs.tokens)} of `{oracle.inputs.name}`"
        )
        raise AlignmentError(msg, expected="two captures of one input")
    shared = [site for site in oracle.tensors if site in subject.tensors]
    _refuse_other_steps(subject, oracle, max((site.step for site in shared), default=0))
    found = set(shared)
    every = (*subject.tensors, *oracle.tensors, *subject.missing, *oracle.missing)
    return Comparison(
        sites=tuple(
            compare_tensors(subject.tensors[site], oracle.tensors[site], site=site)
            for site in _in_causal_order(shared)
        ),
        missing=_in_causal_order(each for each in dict.fromkeys(every) if each not in found),
        subject=subject.identity.digest,
        oracle=oracle.identity.digest,
    )


def _refuse_other_steps(subject: Capture, oracle: Capture, steps: int) -> None:
    """Refuse decode steps that were fed what the two sides had chosen differently before."""
    if oracle.inputs.forced or steps < 1:
        return
    both = zip(subject.continuation[:steps], oracle.continuation[:steps], strict=False)
    for step, (mine, theirs) in enumerate(both, start=1):
        if mine != theirs:
            msg = f"decode step {step} was fed other tokens: subject {mine}, oracle {theirs}"
            raise AlignmentError(
                msg,
                expected="the same tokens at every step that is compared",
                remedy=f"force them: `forced: {list(oracle.continuation)}` beside the input's text",
            )


def compare_tensors(
    subject: CapturedTensor, oracle: CapturedTensor, *, site: Site
) -> SiteComparison:
    """Compare the tensors of one site.

    Raises:
        AlignmentError: when they are not one population.
    """
    try:
        subject, oracle = alike(site, subject, oracle)
        y, x = align(subject, oracle)
        rows = pair_sums(x, y, row_length=_row_length(x.shape))
    except AlignmentError as error:
        msg = f"{site}: {error.what}"
        raise AlignmentError(msg, expected=error.expected, remedy=error.remedy) from error
    worst = rows.worst() if len(rows) else None
    return SiteComparison(
        site=site,
        total=rows.total(),
        worst_row=PairStatistics() if worst is None else rows.row(worst),
        worst=worst,
        rows=rows,
        dims=oracle.dims,
        shape=x.shape,
        positions=subject.positions,
        dtypes=(str(subject.array.dtype), str(oracle.array.dtype)),
        is_estimate=oracle.sketch is not None,
    )


def counting(
    compare: Callable[[Capture, Capture], Comparison], tolerances: Iterable[Tolerance]
) -> Callable[[Capture, Capture], Comparison]:
    """Return a way to compare that also counts what goes beyond each tolerance.

    It is a second pass over the tensors, which the other metrics do not need.
    """
    wanted = tuple(tolerances)
    if not wanted:
        return compare

    def compared(subject: Capture, oracle: Capture) -> Comparison:
        comparison = compare(subject, oracle)
        sites = (
            _counted(each, subject.tensors[each.site], oracle.tensors[each.site], wanted)
            for each in comparison.sites
        )
        return replace(comparison, sites=tuple(sites))

    return compared


def _counted(
    site: SiteComparison,
    subject: CapturedTensor,
    oracle: CapturedTensor,
    tolerances: tuple[Tolerance, ...],
) -> SiteComparison:
    if site.total.is_empty:
        return site
    y, x = align(subject, oracle)
    return replace(site, total=replace(site.total, tally=tally(x, y, tolerances)))


def _row_length(shape: tuple[int, ...]) -> int:
    return max(1, shape[-1] if len(shape) > 1 else prod(shape))


def _in_causal_order(sites: Iterable[Site]) -> tuple[Site, ...]:
    return tuple(sorted(sites, key=lambda site: site.causal_key))


def _position(
    index: int, names: tuple[str, ...], shape: tuple[int, ...], positions: tuple[int, ...]
) -> dict[str, int]:
    found = {}
    for name, length in zip(reversed(names), reversed(shape), strict=True):
        index, place = divmod(index, length)
        found[name] = positions[place] if name == TOKENS else place
    return dict(reversed(found.items()))
