"""A survey in a test run: what a killed run saw is taken up, and a terminal told how far it is."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from pytest_falsify._captures import lasting_scope
from pytest_falsify._places import Places
from pytest_falsify._progress import Progress
from pytest_falsify.checks.kept_outcomes import KeptOutcomes
from pytest_falsify.checks.survey import begins_anew, run_survey, survey_key
from pytest_falsify.compare.rates import CONFIDENCE

if TYPE_CHECKING:
    import pytest

    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.inside import Sessions
    from pytest_falsify.checks.survey import JudgesPrompts, Survey


JUDGING = ("checks", "compare", "contracts")
"""The rooms whose code makes outcomes of captures."""


def surveyed(
    claim: Claim, check: JudgesPrompts, sessions: Sessions, config: pytest.Config
) -> Survey:
    """Run a claim on every prompt of its datasets.

    Args:
        claim: what is tried.
        check: its kind.
        sessions: the loaded models by the names of their captures.
        config: of the test run.

    Raises:
        FalsifyError: see ``run_survey``.
    """
    kept = _kept(claim, check, sessions, config)
    is_finished = False
    confidence = claim.parameter("confidence", CONFIDENCE)
    try:
        progress = Progress.of(config, claim.falsifier.id, confidence, note=_note(sessions))
        with closing(progress) as told:
            found = run_survey(claim, check, sessions, kept=kept, told=told)
        is_finished = True
    finally:
        if kept is not None:
            kept.close(is_finished=is_finished)
    return found


def _note(sessions: Sessions) -> str:
    """Return what to know before hours are spent, or nothing."""
    names = [f"`{each}`" for each in begins_anew(sessions)]
    if not names:
        return ""
    do = "does" if len(names) == 1 else "do"
    return f"killed, it would begin anew: {', '.join(names)} {do} not say all that decides answers"


def _kept(
    claim: Claim, check: JudgesPrompts, sessions: Sessions, config: pytest.Config
) -> KeptOutcomes | None:
    key = survey_key(claim, check, sessions, lasting_scope(also=JUDGING))
    if key is None:
        return None
    places = Places.of(config)
    places.prepare()
    return KeptOutcomes.open(places.outcomes, key)
