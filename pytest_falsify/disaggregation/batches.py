"""Two reports of one batch of texts, sample by sample: which differ in the one alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.canonical import parse_json
from pytest_falsify.compare.rates import CONFIDENCE, Discordance, Rate, is_kept
from pytest_falsify.disaggregation.recordings import NEWEST_REPORT
from pytest_falsify.errors import CaptureError
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedBatches:
    """What two reports say of the samples that both have.

    Attributes:
        worse: the samples that differ in the second report alone, in its order.
        better: how many differ in the first report alone.
        rate: of the second report, how many of the common samples differ.
        apart: how many samples only one of the reports has.
    """

    worse: tuple[str, ...]
    better: int
    rate: Rate
    apart: int

    @property
    def discordance(self) -> Discordance:
        """The samples of which the two reports say different things."""
        return Discordance(worse=len(self.worse), better=self.better)

    def is_kept(self, limit: float | None) -> bool | None:
        """Tell whether the second report is no worse than the first, and within a limit.

        Without a limit only a report in which no sample got worse surely is not.
        """
        if limit is not None:
            return is_kept(self.rate, limit, confidence=CONFIDENCE, paired=self.discordance)
        if self.discordance.is_worse():
            return False
        return True if not self.worse else None

    def __str__(self) -> str:
        found = self.discordance
        told = [f"{self.rate} of the target's texts differ"]
        if found.worse or found.better:
            by = "more than chance" if found.is_worse() else "chance explains it"
            told.append(
                f"{found.worse} where the baseline's do not, {found.better} the other way round: "
                f"{by} (p = {found.chance:.2g})"
            )
        if self.worse:
            more = ", ..." if len(self.worse) > SHOWN else ""
            told.append(f"the first of them: {', '.join(self.worse[:SHOWN])}{more}")
        if self.apart:
            one, many = "stands in one report alone and is", "stand in one report alone and are"
            samples = number_of(self.apart, f"sample {one}", f"samples {many}")
            told.append(f"{samples} left out")
        return "; ".join(told)


def is_batch(path: Path) -> bool:
    """Tell whether a file is the report of a batch, and not a recording."""
    try:
        return path.suffix == ".json" and "results" in parse_json(path.read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def paired_batches(baseline: Path, target: Path) -> PairedBatches:
    """Put two reports side by side, by ``sample_id``.

    Raises:
        CaptureError: when one is no whole report, or they have no sample in common.
    """
    before, after = read_batch(baseline), read_batch(target)
    common = [name for name in after if name in before]
    if not common:
        msg = f"it has no sample in common with {baseline}"
        raise CaptureError(msg, path=target, expected="two reports of one dataset")
    return PairedBatches(
        worse=tuple(name for name in common if after[name] and not before[name]),
        better=sum(before[name] and not after[name] for name in common),
        rate=Rate(count=sum(after[name] for name in common), total=len(common)),
        apart=len(before.keys() ^ after.keys()),
    )


def read_batch(path: Path) -> Mapping[str, bool]:
    """Read a report: whether each sample's text differs, by ``sample_id``.

    Raises:
        CaptureError: when it is of a newer version, not whole, or tells of a sample twice.
    """
    try:
        body = parse_json(path.read_bytes())
        pairs = [(str(each["sample_id"]), each["exact_match"] is not True) for each in _of(body)]
        total = body["total_samples"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"it is no report of a batch: {type(error).__name__}: {error}"
        raise CaptureError(
            msg, path=path, expected="`results`, each with `sample_id` and `exact_match`"
        ) from error
    found = dict(pairs)
    if len(found) != len(pairs) or len(pairs) != total:
        msg = f"the report tells of {number_of(len(found), 'sample')} and counts {total}"
        raise CaptureError(msg, path=path, expected="every sample, once")
    return found


def _of(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    version = body.get("schema_version", 1)
    if version > NEWEST_REPORT:
        msg = f"the report is of version {version}"
        raise ValueError(msg)
    results: list[Mapping[str, Any]] = body["results"]
    return results
