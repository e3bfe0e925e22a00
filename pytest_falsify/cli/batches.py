"""What `pytest-falsify trace` makes of the reports of two batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

WITHIN, BEYOND, UNDECIDED = 0, 1, 2


def are_batches(baseline: Path, target: Path) -> bool:
    """Tell whether both files are reports of batches."""
    from pytest_falsify.disaggregation.batches import is_batch

    return is_batch(baseline) and is_batch(target)


def compared_batches(baseline: Path, target: Path, max_rate: float | None) -> tuple[int, str]:
    """Compare two reports sample by sample, and return the status and what was found.

    Args:
        baseline: of the system that is trusted.
        target: of the system on trial.
        max_rate: of the target's samples that may differ.

    Raises:
        CaptureError: when one is no whole report, or they have no sample in common.
    """
    from pytest_falsify.disaggregation.batches import paired_batches

    found = paired_batches(baseline, target)
    statuses = {True: WITHIN, False: BEYOND, None: UNDECIDED}
    return statuses[found.is_kept(max_rate)], str(found)
