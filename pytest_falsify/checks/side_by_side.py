"""Two captures judged outside of any contract: what `pytest-falsify compare` concludes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from pytest_falsify.checks.identical import bitwise
from pytest_falsify.checks.rule import MEASURED, UNCALIBRATED, Rule, conclusion
from pytest_falsify.compare.comparison import compare_captures, counting
from pytest_falsify.compare.limits import parse_limits
from pytest_falsify.errors import AlignmentError
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.words import number_are

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.verdict import Judged

STATE_IT = (
    "nothing says how far is allowed: state it with --expect '{rel_l2: {max: ...}}', "
    "or measure it with --control"
)
SKETCH = "one side is a sketch, which cannot tell whether bits are equal"


class Standing(Enum):
    """How a comparison ends; the value is the exit status."""

    WITHIN = 0
    BEYOND = 1
    UNDECIDED = 2


_STANDINGS = {
    Outcome.HELD: Standing.WITHIN,
    Outcome.REFUTED: Standing.BEYOND,
    Outcome.INCONCLUSIVE: Standing.UNDECIDED,
}


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
        AlignmentError: when the captures are not of one population, or sketches and nothing says
            what is allowed.
        ContractError: when the limits cannot be read.
    """
    limits = parse_limits(expect) if expect else None
    compare = counting(compare_captures, limits.tolerances if limits else ())
    comparison, label = compare(subject, oracle), oracle.inputs.name
    if limits or control:
        allowed = compare_captures(control, oracle) if control else None
        judged = Rule(limits=limits, control=allowed).judged(label, comparison)
        outcome, reason = conclusion([judged])
    elif any(site.is_estimate for site in comparison.sites):
        raise AlignmentError(SKETCH, remedy=STATE_IT)
    else:
        judged = bitwise(label, comparison)
        outcome, reason = conclusion([judged])
        reason = _equality(judged, outcome, reason)
    return Conclusion(
        standing=_STANDINGS[outcome],
        calibration=MEASURED if control else UNCALIBRATED,
        reason=reason,
        judged=judged,
    )


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


def _equality(judged: Judged, outcome: Outcome, reason: str) -> str:
    """Return the reason in the words of equality, which is asked for when nothing is said."""
    sites = judged.comparison.sites
    if outcome is Outcome.HELD:
        return f"{number_are(len(sites), 'site')} bit-equal"
    if outcome is Outcome.REFUTED:
        different = len({each.site for each in judged.violations})
        return f"{different} of {number_are(len(sites), 'site')} not bit-equal, and {STATE_IT}"
    return reason
