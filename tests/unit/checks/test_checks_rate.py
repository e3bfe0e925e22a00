"""rate: what the outcomes of many prompts come to, and what is told of them."""

from __future__ import annotations

import pytest
from checks_support import make_claim
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify._loading import vocabulary
from pytest_falsify.checks.marks import Mark
from pytest_falsify.checks.prompt_outcome import PromptOutcome
from pytest_falsify.checks.registry import check
from pytest_falsify.checks.survey import Survey
from pytest_falsify.contracts.load import load_contract
from pytest_falsify.errors import ContractError
from pytest_falsify.ledger.evidence import Outcome

HELD, REFUTED, INCONCLUSIVE = Outcome.HELD, Outcome.REFUTED, Outcome.INCONCLUSIVE
SAME, OTHER, LOST = Mark(differs=False), Mark(differs=True), Mark(differs=None, why="no logits")
CONTRACT = """
targets: {{here: {{model: ./m}}}}
captures: {{a: {{engine: transformers}}, b: {{engine: transformers, dtype: bfloat16}}}}
inputs: {{one: {{text: hello}}, many: {{dataset: d.jsonl}}}}
falsification_tests:
- id: FALSIFY-A-1
  check: {{kind: rate, subject: a, oracle: b, {rest}}}
"""
USUAL = "inputs: [many], outcome: argmax, expect: {rate: {max: 0.05}}"


def prompts(*marks, tokens=8, controls=None):
    controls = controls or [None] * len(marks)
    return [
        PromptOutcome(
            id=f"p{place}",
            tokens=tokens,
            subject=mark,
            control=control,
            answers=((place + 1000 * bool(mark.differs),), (place,)),
            planted=2,
        )
        for place, (mark, control) in enumerate(zip(marks, controls, strict=True), start=1)
    ]


def judged(outcomes, *, limit=0.05, **more):
    claim = make_claim("rate", outcome="argmax", expect={"rate": {"max": limit}}, **more)
    return check("rate").judge_survey(claim, Survey(outcomes=tuple(outcomes), captures={}))


def told(verdict):
    return "; ".join(verdict.reasons)


@pytest.mark.parametrize(
    ("differing", "total", "outcome"),
    [(0, 200, HELD), (3, 200, HELD), (10, 200, INCONCLUSIVE), (20, 200, REFUTED), (2, 3, REFUTED)],
)
def test_the_whole_interval_has_to_be_on_one_side(differing, total, outcome):
    verdict = judged(prompts(*[OTHER] * differing, *[SAME] * (total - differing)))
    assert verdict.outcome is outcome
    assert verdict.observed["rate"]["differing"] == differing
    assert verdict.observed["calibration"] == "uncalibrated"
    assert f"{differing} of {total} (" in told(verdict)


def test_undecided_says_how_many_prompts_would_decide():
    verdict = judged(prompts(OTHER, *[SAME] * 49))
    assert told(verdict) == (
        "1 of 50 (0.02, 95% interval 0.00354 to 0.105) prompts differ, undecided against 0.05: "
        "about 153 prompts more at this rate would decide"
    )
    assert "no number of prompts at this rate" in told(judged(prompts(OTHER, *[SAME] * 19)))


def test_no_prompt_is_no_pass():
    verdict = judged([])
    assert verdict.outcome is INCONCLUSIVE
    assert "holds no prompt" in told(verdict)


def test_prompts_that_could_not_be_judged_count_where_they_could_turn_it():
    few, many = [*[SAME] * 390, LOST], [*[SAME] * 390, *[LOST] * 40]
    assert judged(prompts(*few)).outcome is HELD
    verdict = judged(prompts(*many))
    assert verdict.outcome is INCONCLUSIVE
    assert told(verdict) == (
        "40 of 430 prompts could not be judged, which could turn it; the first is p391: no logits"
    )
    assert verdict.observed["unjudged_because"] == {"no logits": 40}
    each_its_own = [Mark(differs=None, why=f"error {place}") for place in range(40)]
    assert len(judged(prompts(*each_its_own)).observed["unjudged_because"]) == 5
    assert judged(prompts(*[OTHER] * 40, *[SAME] * 40, LOST)).outcome is REFUTED


def test_where_none_could_be_judged_nothing_is_concluded():
    for total in (1, 500):
        verdict = judged(prompts(*[LOST] * total))
        assert verdict.outcome is INCONCLUSIVE
        assert told(verdict).startswith(f"none of {total} prompts could be judged; the first is p1")
        assert verdict.observed["rate"] is None


@given(
    marks=st.lists(st.sampled_from([SAME, OTHER, LOST]), min_size=1, max_size=60),
    limit=st.sampled_from([0.02, 0.1, 0.4]),
)
def test_a_verdict_stands_whichever_way_the_lost_would_have_come_out(marks, limit):
    outcome = judged(prompts(*marks), limit=limit).outcome
    if outcome in {HELD, REFUTED}:
        for taken in (SAME, OTHER):
            filled = [taken if each is LOST else each for each in marks]
            assert judged(prompts(*filled), limit=limit).outcome is outcome


@pytest.mark.parametrize(
    ("alone", "control_alone", "both", "outcome"),
    [
        (12, 0, 0, REFUTED),  # the subject alone differs: more than chance
        (12, 10, 20, INCONCLUSIVE),  # beyond the limit, and so is good code
        (30, 5, 0, REFUTED),
        (0, 12, 0, HELD),
        (2, 2, 2, HELD),
        (6, 0, 0, REFUTED),  # within the limit, but surely worse than the control
    ],
)
def test_a_control_is_what_refutes(alone, control_alone, both, outcome):
    rest = 400 - alone - control_alone - both
    subject = [OTHER] * alone + [SAME] * control_alone + [OTHER] * both + [SAME] * rest
    control = [SAME] * alone + [OTHER] * control_alone + [OTHER] * both + [SAME] * rest
    verdict = judged(prompts(*subject, controls=control), noise={"control": "c"})
    assert verdict.outcome is outcome
    assert verdict.observed["control"]["subject_differs_alone"] == alone
    assert verdict.observed["control"]["differs_alone"] == control_alone
    assert verdict.observed["calibration"] == "measured"


def test_a_control_that_could_not_be_judged_leaves_its_prompt_out():
    subject = [OTHER] * 6 + [SAME] * 394
    sure = prompts(*subject, controls=[SAME] * 400)
    lost = prompts(*subject, controls=[LOST] * 6 + [SAME] * 394)
    assert judged(sure, noise={"control": "c"}).outcome is REFUTED
    assert judged(lost, noise={"control": "c"}).outcome is INCONCLUSIVE


def test_lengths_of_which_too_many_differ_do_not_hide_in_the_whole():
    short, long = prompts(*[SAME] * 800), prompts(*[OTHER] * 9, *[SAME] * 11, tokens=900)
    verdict = judged([*short, *long])
    assert verdict.outcome is INCONCLUSIVE
    assert "prompts of 513..1024 tokens are beyond 0.05 alone: 9 of 20" in told(verdict)
    assert verdict.observed["worst_bucket"] == "513..1024"
    fine, beyond = verdict.observed["buckets"]
    assert (fine["prompts"], fine["differing"], "is_beyond" in fine) == (800, 0, False)
    assert (beyond["prompts"], beyond["differing"], beyond["is_beyond"]) == (20, 9, True)
    assert beyond["low"] < beyond["share"] == 0.45 < beyond["high"]
    by_hand = judged([*short, *long], buckets=[256, 64])
    assert [each["tokens"] for each in by_hand.observed["buckets"]] == ["1..64", "257.."]


def test_lengths_that_could_not_be_judged_at_all_do_not_hide_either():
    short, long = prompts(*[SAME] * 800), prompts(*[LOST] * 10, tokens=900)
    verdict = judged([*short, *long])
    assert verdict.outcome is INCONCLUSIVE
    assert told(verdict).startswith("10 of 810 prompts could not be judged, which could turn it")


def test_where_answers_part_is_told_by_token():
    marks = [Mark(differs=True, at=at) for at in (0, 0, 1, 5, 6)]
    verdict = judged(prompts(*marks))
    assert verdict.observed["first_difference"] == {"1": 2, "2": 1, "5..8": 2}


def test_the_first_prompts_that_differ_are_named():
    verdict = judged(prompts(SAME, *[OTHER] * 7))
    assert verdict.observed["differing"] == ["p2", "p3", "p4", "p5", "p6"]
    assert verdict.counted.first_differing == ("p2", "p3", "p4", "p5", "p6", "...")


def test_what_held_has_found_every_planted_fault():
    faults = judged(prompts(*[SAME] * 200)).faults
    assert faults["planted"] == faults["caught"] == 402
    assert 0.05 < faults["smallest_caught"] < 0.1


def test_answers_that_are_all_alike_prove_nothing():
    """Held against another prompt's answer each would still agree: nobody looked at the prompts."""
    alike = [
        PromptOutcome(id=str(n), tokens=8, subject=SAME, answers=((5,), (5,)), planted=1)
        for n in range(200)
    ]
    verdict = judged(alike)
    assert verdict.outcome is HELD
    assert verdict.faults["missed"] == ["answers of other prompts"]
    assert "vacuous: 1 of 202 planted faults are missed (answers of other prompts)" in told(verdict)


def test_a_fault_missed_in_a_prompt_makes_it_vacuous():
    missing = PromptOutcome(
        id="p", tokens=8, subject=SAME, answers=((7,), (7,)), planted=2, missed=("NaN",)
    )
    verdict = judged([*prompts(*[SAME] * 200), missing])
    assert verdict.faults["caught"] == verdict.faults["planted"] - 1
    assert verdict.faults["missed"] == ["NaN"]


def load(folder, rest):
    path = folder / "c.yaml"
    path.write_text(CONTRACT.format(rest=rest))
    return load_contract(path, vocabulary=vocabulary())


@pytest.mark.parametrize(
    "rest",
    [
        USUAL,
        USUAL.replace("argmax", "tokens, new_tokens: 4"),
        USUAL.replace("argmax", "{kl: {max: 1e-3}}"),
        f"{USUAL}, confidence: 0.99, buckets: [64, 256]",
    ],
)
def test_a_contract_may_say(tmp_path, rest):
    assert load(tmp_path, rest).falsifiers[0].check.kind == "rate"


@pytest.mark.parametrize(
    ("rest", "what"),
    [
        (USUAL.replace("many", "one"), "the input `one` is one prompt"),
        (USUAL.replace("inputs: [many], ", ""), "`inputs` is missing"),
        (USUAL.replace("0.05", "0"), "`0` is not what `max` can be"),
        (USUAL.replace("0.05", "1"), "`1` is not what `max` can be"),
        (USUAL.replace("argmax", "words"), "is not what `outcome` can be"),
        (USUAL.replace("argmax", "{kl: {}}"), "`max` is missing"),
        (f"{USUAL}, confidence: 1", "`1` is not what `confidence` can be"),
        (f"{USUAL}, noise: {{control: c}}", "unknown capture `c`"),
        (f"{USUAL}, noise: {{control: b}}", "`control` and `oracle` are the same capture"),
    ],
)
def test_a_contract_may_not_say(tmp_path, rest, what):
    with pytest.raises(ContractError) as caught:
        load(tmp_path, rest)
    assert what in str(caught.value)
