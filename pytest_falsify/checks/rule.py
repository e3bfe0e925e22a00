"""How near a subject has to be to its oracle: stated limits, a control's noise, or both."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, floor, isfinite, log10
from typing import TYPE_CHECKING

from pytest_falsify.checks.verdict import Judged, beyond_floor, nothing_compared
from pytest_falsify.compare.limits import Limits, smallest_passing, violations
from pytest_falsify.compare.noise import RATIO, ROW_RATIO, Judgement, judge_noise
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.words import number_are, number_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_falsify.compare.comparison import Comparison
    from pytest_falsify.compare.noise import SiteNoise

MEASURED, UNCALIBRATED = "measured", "uncalibrated"
"""Where what is allowed comes from: a control, or somebody's guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one subject is held against.

    Attributes:
        limits: what is allowed, where that is stated.
        control: the control against the same oracle, where there is one.
        ratios: ``ratio`` and ``row_ratio`` to the control's noise, where they are stated.
    """

    limits: Limits | None = None
    control: Comparison | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)

    def judged(self, label: str, comparison: Comparison) -> Judged:
        """Mark what is beyond in a comparison, and tell what would have passed."""
        broken = violations(comparison, self.limits) if self.limits else ()
        noise = self._noise(comparison)
        advice = ""
        if self.limits and (broken or not noise):
            advice = str(smallest_passing(comparison, self.limits))
        elif any(each.judgement is not Judgement.NOISE for each in noise):
            advice = self._smallest_ratios(comparison, noise)
        return Judged(
            label=label,
            comparison=comparison,
            violations=broken,
            noise=noise,
            advice=advice,
            calibration=MEASURED if noise else UNCALIBRATED,
        )

    def refutes(self, comparison: Comparison) -> bool:
        """Tell whether a comparison goes beyond the limits or the floor."""
        if self.limits and violations(comparison, self.limits):
            return True
        return any(each.judgement is Judgement.BUG for each in self._noise(comparison))

    def _noise(
        self, comparison: Comparison, ratios: Mapping[str, float] | None = None
    ) -> tuple[SiteNoise, ...]:
        if self.control is None:
            return ()
        chosen = self.ratios if ratios is None else ratios
        return judge_noise(
            comparison,
            self.control,
            ratio=chosen.get("ratio", RATIO),
            row_ratio=chosen.get("row_ratio", ROW_RATIO),
        )

    def _smallest_ratios(self, comparison: Comparison, noise: Sequence[SiteNoise]) -> str:
        """Return the smallest ratios to the floor that would have passed, or that none would."""
        ratios = {
            "ratio": _up(max(max(each.ratio, each.high, RATIO) for each in noise)),
            "row_ratio": _up(max(max(each.row_ratio, ROW_RATIO) for each in noise)),
        }
        if all(map(isfinite, ratios.values())):
            left = {each.judgement for each in self._noise(comparison, ratios)} - {Judgement.NOISE}
            if Judgement.BUG not in left:
                stated = ", ".join(f"{name}: {value:g}" for name, value in ratios.items())
                return f"noise: {{{stated}}}{', with more tokens' if left else ''}"
        return "no ratio to the control's floor"


def conclusion(judged: Sequence[Judged]) -> tuple[Outcome, str]:
    """Return what comparisons come to: one refutation counts more than all else, then a lack."""
    broken = [each for one in judged for each in one.violations]
    if broken:
        sites = len({each.site for each in broken})
        beyond = number_of(sites, "site is beyond its limits", "sites are beyond their limits")
        return Outcome.REFUTED, f"{beyond}; the first is {broken[0]}"
    bugs = [each for one in judged for each in one.beyond(Judgement.BUG)]
    if bugs:
        sites = len({each.site for each in bugs})
        return Outcome.REFUTED, f"{beyond_floor(sites)}; the first is {_told(bugs[0])}"
    if lack := nothing_compared(judged):
        return Outcome.INCONCLUSIVE, lack
    unsure = [each for one in judged for each in one.beyond(Judgement.INCONCLUSIVE)]
    if unsure:
        undecided = number_are(len(unsure), "site")
        return Outcome.INCONCLUSIVE, f"{undecided} undecided: {_undecided(unsure)}"
    return Outcome.HELD, _within(judged)


def is_measured(judged: Sequence[Judged]) -> bool:
    """Tell whether what is allowed was measured by a control."""
    return any(one.noise for one in judged)


def is_estimated(judged: Sequence[Judged]) -> bool:
    """Tell whether sketches were compared."""
    return any(site.is_estimate for one in judged for site in one.comparison.sites)


def _within(judged: Sequence[Judged]) -> str:
    sites = len({site.site for one in judged for site in one.comparison.sites})
    measured = is_measured(judged)
    within = "no further from the oracle than the control" if measured else "within limits"
    estimated = ", estimated from sketches" if is_estimated(judged) else ""
    return f"{number_are(sites, 'site')} {within}{estimated}"


def _told(noise: SiteNoise) -> str:
    return f"{noise.site}: {noise.reason}"


def _undecided(unsure: Sequence[SiteNoise]) -> str:
    wanted = [each.more_tokens for each in unsure if each.more_tokens is not None]
    if not wanted:
        return _told(unsure[0])
    more = number_of(max(wanted), "more token")
    return f"{_told(unsure[0])}; about {more} would decide all of them"


def _up(value: float) -> float:
    """Return a ratio rounded up to three digits."""
    if not isfinite(value) or value == 0:
        return value
    unit = 10.0 ** (floor(log10(value)) - 2)
    return float(f"{ceil(value / unit) * unit:.3g}")
