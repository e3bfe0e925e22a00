"""What a check concludes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.words import number_are, number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.base import Captures
    from pytest_falsify.checks.counted import Counted
    from pytest_falsify.compare.comparison import Comparison
    from pytest_falsify.compare.limits import Violation
    from pytest_falsify.compare.noise import Judgement, SiteNoise
    from pytest_falsify.localize.chain import Chain
    from pytest_falsify.stages.vocabulary import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One comparison and what in it goes beyond the limits.

    Attributes:
        label: which input or run it is about.
        noise: every site judged against its floor, where a control was captured.
        advice: the tightest limits that would have passed, as a contract would write them.
        calibration: whether what is allowed was ``measured`` by a control or is ``uncalibrated``;
            empty where nothing but equality is allowed.
    """

    label: str
    comparison: Comparison
    violations: tuple[Violation, ...] = ()
    noise: tuple[SiteNoise, ...] = ()
    advice: str = ""
    calibration: str = ""

    def beyond(self, judgement: Judgement) -> tuple[SiteNoise, ...]:
        """Return the sites that are judged so, in causal order."""
        return tuple(each for each in self.noise if each.judgement is judgement)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An outcome with its reasons, the numbers observed, and how much was looked at.

    Attributes:
        faults: what the check made of planted faults; None where it planted none.
        subject: the digest of what was on trial, where no capture says it.
        chains: by input, every operation judged by its own error, where that was done.
        counted: what became of every prompt, where many were tried.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    observed: Mapping[str, Any] = field(default_factory=dict)
    coverage: Mapping[str, Any] = field(default_factory=dict)
    faults: Mapping[str, Any] | None = None
    judged: tuple[Judged, ...] = ()
    subject: str | None = None
    chains: Mapping[str, Chain] = field(default_factory=dict)
    counted: Counted | None = None


def nothing_compared(judged: Iterable[Judged]) -> str | None:
    """Return why a set of comparisons cannot support a pass, or None when it can."""
    found = tuple(judged)
    if not found or any(each.comparison.is_empty for each in found):
        return "nothing was compared"
    missing = [str(site) for each in found for site in each.comparison.missing]
    if missing:
        return missing_sites(missing)
    return None


def inconclusive(reason: str, judged: tuple[Judged, ...] = ()) -> Verdict:
    """Return a verdict that supports nothing, with the reason."""
    return Verdict(outcome=Outcome.INCONCLUSIVE, reasons=(reason,), judged=judged)


def held(
    reason: str,
    captures: Captures,
    *,
    observed: Mapping[str, Any],
    faults: Mapping[str, Any] | None,
    judged: tuple[Judged, ...] = (),
) -> Verdict:
    """Return a verdict that supports the claim; a check that misses its faults says so."""
    return Verdict(
        outcome=Outcome.HELD,
        reasons=(reason, *_vacuity(faults)),
        observed=observed,
        coverage=coverage(captures.values()),
        faults=faults,
        judged=judged,
    )


def refuted(
    reasons: Iterable[str],
    captures: Captures,
    *,
    observed: Mapping[str, Any],
    judged: tuple[Judged, ...] = (),
) -> Verdict:
    """Return a verdict against the claim."""
    return Verdict(
        outcome=Outcome.REFUTED,
        reasons=tuple(reasons),
        observed=observed,
        coverage=coverage(captures.values()),
        judged=judged,
    )


def _vacuity(faults: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield why a check that held proves nothing: it misses planted faults, or none exist."""
    if faults is None:
        return
    planted, caught = faults["planted"], faults["caught"]
    if planted == 0:
        yield "vacuous: no fault could be planted in what was captured"
    elif caught < planted:
        missed = f" ({', '.join(faults['missed'])})" if faults.get("missed") else ""
        faults_are = number_are(planted, "planted fault")
        yield f"vacuous: {planted - caught} of {faults_are} missed{missed}"


def coverage(captures: Iterable[Capture]) -> dict[str, int]:
    """Return how much was looked at: inputs, tokens, layers and sites, each counted once."""
    found = tuple(captures)
    sites = {site for each in found for site in each.tensors}
    inputs = {each.inputs.digest: len(each.inputs.tokens) for each in found}
    return {
        "inputs": len(inputs),
        "layers": len({site.layer for site in sites if site.layer is not None}),
        "sites": len(sites),
        "tokens": sum(inputs.values()),
    }


def worst(judged: Iterable[Judged]) -> dict[str, Any]:
    """Return the site with the largest relative error of all comparisons, as observed numbers."""
    found = [each.comparison.worst for each in judged if each.comparison.sites]
    if not found:
        return {}
    site = max(found, key=lambda each: each.total.rel_l2)
    return {
        "site": str(site.site),
        "rel_l2": finite(site.total.rel_l2),
        "max_abs": finite(site.total.max_abs),
        "worst_row": finite(site.worst_row.rel_l2),
    }


def finite(value: float) -> float | str:
    """Return a number as JSON can hold it: what is not finite becomes its name."""
    return value if abs(value) != float("inf") and value == value else str(value)  # noqa: PLR0124


def beyond_floor(count: int) -> str:
    """Return what is said of sites that are further off than the control explains."""
    return number_of(count, "site is beyond its floor", "sites are beyond their floor")


def missing_sites(missing: Sequence[Site | str]) -> str:
    """Return what is said of planned sites that a capture lacks."""
    return f"{number_are(len(missing), 'planned site')} missing, first {missing[0]}"
