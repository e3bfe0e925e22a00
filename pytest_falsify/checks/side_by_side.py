"""Two captures judged outside of any contract: what `pytest-falsify compare` concludes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from math import ceil, floor, isfinite, log10
from typing import TYPE_CHECKING, Any

from pytest_falsify.checks.verdict import Judged, nothing_compared
from pytest_falsify.compare.comparison import Comparison, compare_captures
from pytest_falsify.compare.limits import parse_limits, smallest_passing, violations
from pytest_falsify.compare.noise import RATIO, ROW_RATIO, Judgement, judge_noise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.compare.noise import SiteNoise

EQUAL: Mapping[str, Any] = {"mismatched": {"max": 0}}
"""What is asked for when nothing is said."""
TIGHTEST: Mapping[str, Any] = {"rel_l2": {"max": 0}, "worst_row": {"max": 0}}
"""The limits for which the smallest that would pass are told, when none were stated."""
STATE_IT = (
    "nothing says how far is allowed: state it with --expect '{rel_l2: {max: ...}}', "
    "or measure it with --control"
)


class Standing(Enum):
    """How a comparison ends; the value is the exit status."""

    WITHIN = 0
    BEYOND = 1
    UNDECIDED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What a comparison of two captures comes to.

    Attributes:
        calibration: ``measured`` by a control, else ``uncalibrated``: stated limits are guesses.
        reason: one sentence.
    """

    standing: Standing
    calibration: str
    reason: str
    judged: Judged


def conclude(
    subject: Capture,
    oracle: Capture,
    *,
    control: Capture | None = None,
    expect: Mapping[str, Any] | None = None,
) -> Conclusion:
    """Compare two captures and judge them by limits, by the noise of a control, or by equality.

    Args:
        subject: on trial.
        oracle: trusted.
        control: known-good code at the subject's precision, on the same input.
        expect: limits, as a contract states them; see ``compare.limits.parse_limits``.

    Raises:
        AlignmentError: when the captures are not of one population.
        ContractError: when the limits cannot be read.
    """
    comparison = compare_captures(subject, oracle)
    allowed = compare_captures(control, oracle) if control else None
    judged = _judged(oracle.inputs.name, comparison, allowed, expect)
    standing, reason = _standing(judged, is_stated=bool(expect))
    calibration = "measured" if control else "uncalibrated"
    return Conclusion(standing=standing, calibration=calibration, reason=reason, judged=judged)


def shared(*captures: Capture) -> tuple[tuple[Capture, ...], int]:
    """Return captures cut to the sites that all of them show, and how many others there were."""
    every = {site for each in captures for site in (*each.tensors, *each.missing)}
    common = {site for site in every if all(site in each.tensors for each in captures)}
    cut = tuple(
        replace(
            each,
            tensors={site: tensor for site, tensor in each.tensors.items() if site in common},
            missing=(),
        )
        for each in captures
    )
    return cut, len(every - common)


def _judged(
    label: str,
    comparison: Comparison,
    allowed: Comparison | None,
    expect: Mapping[str, Any] | None,
) -> Judged:
    noise = judge_noise(comparison, allowed) if allowed else ()
    stated = expect or (None if allowed else EQUAL)
    broken = violations(comparison, parse_limits(stated)) if stated else ()
    advice = ""
    if expect or (broken and not allowed):
        advice = str(smallest_passing(comparison, parse_limits(expect or TIGHTEST)))
    elif allowed and any(each.judgement is not Judgement.NOISE for each in noise):
        advice = _smallest_ratios(comparison, allowed, noise)
    return Judged(label=label, comparison=comparison, violations=broken, noise=noise, advice=advice)


def _smallest_ratios(
    comparison: Comparison, allowed: Comparison, noise: tuple[SiteNoise, ...]
) -> str:
    """Return the smallest ratios to the floor that would have passed, or that none would."""
    ratio = _up(max(max(each.ratio, each.high, RATIO) for each in noise))
    row_ratio = _up(max(max(each.row_ratio, ROW_RATIO) for each in noise))
    if isfinite(ratio) and isfinite(row_ratio):
        again = judge_noise(comparison, allowed, ratio=ratio, row_ratio=row_ratio)
        left = {each.judgement for each in again} - {Judgement.NOISE}
        if Judgement.BUG not in left:
            tokens = ", with more tokens" if left else ""
            return f"noise: {{ratio: {ratio:g}, row_ratio: {row_ratio:g}}}{tokens}"
    return "no ratio to the control's floor"


def _up(value: float) -> float:
    """Return a ratio rounded up to three digits."""
    if not isfinite(value) or value == 0:
        return value
    unit = 10.0 ** (floor(log10(value)) - 2)
    return float(f"{ceil(value / unit) * unit:.3g}")


def _standing(judged: Judged, *, is_stated: bool) -> tuple[Standing, str]:
    sites = judged.comparison.sites
    if reason := nothing_compared([judged]):
        return Standing.UNDECIDED, reason
    if judged.violations and is_stated:
        beyond = len({each.site for each in judged.violations})
        reason = f"{beyond} of {len(sites)} sites are beyond their limits; the first is "
        return Standing.BEYOND, f"{reason}{judged.violations[0]}"
    if not judged.noise and not is_stated:
        return _equality(judged)
    if bugs := judged.beyond(Judgement.BUG):
        reason = f"{len(bugs)} of {len(sites)} sites are beyond their floor; the first is "
        return Standing.BEYOND, f"{reason}{bugs[0].site}: {bugs[0].reason}"
    if unsure := judged.beyond(Judgement.INCONCLUSIVE):
        reason = f"{len(unsure)} of {len(sites)} sites are undecided; the first is "
        return Standing.UNDECIDED, f"{reason}{unsure[0].site}: {unsure[0].reason}{_more(unsure)}"
    within = "no further from the oracle than the control" if judged.noise else "within limits"
    estimated = ", estimated from sketches" if any(each.is_estimate for each in sites) else ""
    return Standing.WITHIN, f"{len(sites)} sites are {within}{estimated}"


def _more(unsure: tuple[SiteNoise, ...]) -> str:
    wanted = [each.more_tokens for each in unsure if each.more_tokens is not None]
    return f"; about {max(wanted)} more tokens would decide" if wanted else ""


def _equality(judged: Judged) -> tuple[Standing, str]:
    sites = judged.comparison.sites
    different = [each for each in sites if not each.is_identical]
    if not different:
        return Standing.WITHIN, f"{len(sites)} sites are bit-equal"
    reason = f"{len(different)} of {len(sites)} sites are not bit-equal, and {STATE_IT}"
    return Standing.BEYOND, reason
