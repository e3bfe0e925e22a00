"""A refuted rate is what its golden file shows; every prompt stands in one line of its table."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_support import assert_golden

from pytest_falsify.checks.claim import Claim
from pytest_falsify.checks.counted import Counted
from pytest_falsify.checks.marks import Mark
from pytest_falsify.checks.prompt_outcome import PromptOutcome
from pytest_falsify.checks.registry import check
from pytest_falsify.checks.survey import Survey
from pytest_falsify.contracts.model import CheckSpec, Contract, Falsifier, Target
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.report.counted import counted_table
from pytest_falsify.report.refutation import render_refutation

LOST = Mark(differs=None, why="no logits of the subject")
LENGTHS = {6: 40, 24: 60, 700: 16}


def outcomes(*, is_paired):
    """116 prompts: of the long ones most differ, of the short ones a few, and one was lost."""
    for tokens, total in LENGTHS.items():
        for place in range(total):
            differs = place < total * tokens // 900
            mark = Mark(differs=differs, at=place if differs else 0)
            yield PromptOutcome(
                id=f"p{tokens}-{place}",
                tokens=tokens,
                subject=mark if place != total - 1 or tokens != 24 else LOST,
                control=Mark(differs=tokens == 24 and place == 0) if is_paired else None,
            )


def claimed(**more):
    parameters = {"outcome": "tokens", "expect": {"rate": {"max": 0.05}}, **more}
    return Claim(
        contract=Contract(path=Path("contracts/served.yaml"), id="C-SERVED"),
        falsifier=Falsifier(
            id="FALSIFY-SERVED-003",
            line=31,
            rule="two workers answer as one does",
            prediction="of a hundred prompts at most five are answered otherwise",
            if_fails="long prompts lose a block of their cache",
            check=CheckSpec(kind="rate", line=31, parameters=parameters),
        ),
        target=Target(name="tiny", model="./m", line=1),
    )


@pytest.mark.parametrize("control", [None, "sdpa"], ids=["stated", "measured"])
def test_a_refuted_rate_is_its_golden_file(control):
    claim = claimed(**({"noise": {"control": control}} if control else {}))
    survey = Survey(outcomes=tuple(outcomes(is_paired=control is not None)), captures={})
    verdict = check("rate").judge_survey(claim, survey)
    assert verdict.outcome is Outcome.REFUTED
    text = render_refutation(
        claim,
        verdict,
        place="contracts/served.yaml:31",
        command="pytest --falsify 'contracts/served.yaml::FALSIFY-SERVED-003[tiny]'",
        is_full=False,
    )
    assert_golden(f"rate-{'measured' if control else 'stated'}.txt", text + "\n")


@given(
    lengths=st.lists(st.integers(1, 3000), max_size=40),
    differs=st.lists(st.sampled_from([True, False, None]), min_size=40, max_size=40),
)
def test_the_lines_of_a_table_add_up_to_all_prompts(lengths, differs):
    counted = Counted(
        outcomes=[
            PromptOutcome(
                id=str(place),
                tokens=length,
                subject=Mark(differs=each, why="lost" if each is None else ""),
            )
            for place, (length, each) in enumerate(zip(lengths, differs, strict=False))
        ],
        limit=0.1,
        confidence=0.95,
    )
    lines = [line.split() for line in counted_table(counted)]
    *rows, total = lines[1 : 2 + len(counted.buckets)]
    assert total[0] == "all"
    assert sum(int(row[1]) for row in rows) == int(total[1])
    assert int(total[1]) + len(counted.unjudged) == len(lengths)
    if int(total[1]):
        judged = [row for row in rows if row[1] != "0"]
        assert sum(int(row[2]) for row in judged) == int(total[2]) == len(counted.differing)
