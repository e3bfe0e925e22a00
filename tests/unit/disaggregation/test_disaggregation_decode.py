"""A changed answer is found, and blamed on the leg that changed it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from broken_workers import FAULTS, with_fault

from pytest_falsify.checks.registry import check
from pytest_falsify.compare.comparison import compare_captures

pytest.importorskip("transformers")
NOTHING = {"kl": {"max": 1e-9}}
STEPS = 8


def judge(bench, subject, **parameters):
    return bench.judge("decode", subject, **({"expect": NOTHING} | parameters))


@pytest.fixture(scope="module")
def held(bench):
    """The claim and the captures of a transfer of every bit."""
    claim = bench.claim("decode", {}, expect=NOTHING)
    return claim, bench.captures(claim)


def judged(claim, captures):
    return check("decode").judge(claim, captures, compare_captures)


def changed(captures, role, run, change):
    """Return captures of which one is changed."""
    return {
        request: change(each) if (request.role, request.run) == (role, run) else each
        for request, each in captures.items()
    }


def with_logits(step, place, value):
    def change(capture):
        logits = [np.array(each) for each in capture.logits]
        logits[step][-1, place] = value
        return replace(capture, logits=tuple(logits))

    return change


def test_every_bit_transferred_gives_the_oracles_answer(held):
    verdict = judged(*held)
    assert verdict.outcome.value == "held"
    assert verdict.observed["leg"] == "none"
    assert verdict.observed["agreed"] == STEPS
    assert verdict.faults == {"planted": 10, "caught": 10}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_leg_of_a_fault_is_named(bench, fault):
    leg, options = FAULTS[fault]
    verdict = judge(bench, with_fault({}, options))
    assert verdict.outcome.value == "refuted"
    assert verdict.observed["leg"] == leg


def test_a_codec_that_costs_more_than_is_allowed_is_the_transfers_doing(bench):
    subject = {"transfer": {"codec": "fp8"}}
    verdict = judge(bench, subject)
    assert verdict.observed["leg"] == "transfer"
    assert verdict.reasons[0].startswith("transfer: max KL")
    moved = verdict.observed["legs"]["transfer"]["kl_max"]
    assert judge(bench, subject, expect={"kl": {"max": 2 * moved}}).observed["leg"] == "none"


@pytest.mark.parametrize(
    ("role", "run", "leg"),
    [("replay", 1, "prefill"), ("replay", 0, "transfer"), ("subject", 0, "decode")],
)
def test_a_nan_is_blamed_on_the_leg_that_first_shows_it(held, role, run, leg):
    claim, captures = held
    verdict = judged(claim, changed(captures, role, run, with_logits(3, 5, np.nan)))
    assert verdict.outcome.value == "refuted"
    assert verdict.observed["leg"] == leg


def test_the_first_token_that_differs_is_named_with_its_margin(held):
    claim, captures = held

    def other(capture):
        tokens = list(capture.continuation)
        tokens[4] += 1
        return replace(capture, continuation=tuple(tokens))

    verdict = judged(claim, changed(captures, "subject", 1, other))
    assert verdict.outcome.value == "refuted"
    assert verdict.observed["agreed"] == 4
    assert verdict.reasons[0].startswith(f"token 5 of {STEPS} is ")
    assert "by a margin of" in verdict.reasons[0]
    assert "no leg alone turns it" in verdict.reasons[0]


@pytest.mark.parametrize("role", ["oracle", "subject", "replay"])
def test_too_few_tokens_are_never_a_pass(held, role):
    claim, captures = held

    def cut(capture):
        return replace(capture, logits=capture.logits[:2], continuation=capture.continuation[:1])

    verdict = judged(claim, changed(captures, role, 0, cut))
    assert verdict.outcome.value == "inconclusive"
    assert judged(claim, {}).outcome.value == "inconclusive"


def test_an_oracle_that_is_not_finite_decides_nothing(held):
    claim, captures = held
    verdict = judged(claim, changed(captures, "oracle", 0, with_logits(2, 1, np.nan)))
    assert verdict.outcome.value == "inconclusive"
