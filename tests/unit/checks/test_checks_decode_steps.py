"""Checks of decode steps: a real model, faults that reach over steps, tokens that must agree."""

from dataclasses import replace

import numpy as np
import pytest
from checks_support import make_claim

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.record import record
from pytest_falsify.checks.planting import Pair, plant
from pytest_falsify.checks.registry import check
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.compare.faults import FAULTS
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines.registry import engine
from pytest_falsify.errors import AlignmentError
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.stages.vocabulary import Site

pytest.importorskip("torch")
pytest.importorskip("transformers")

STEPS = 12
HEADED = {"heads swapped", "rotary halves interleaved"}
"""Faults that do not exist in the stages that are looked at."""
ROLES = {
    "subject": {"dtype": "bfloat16", "attention": "sdpa"},
    "oracle": {"dtype": "float32"},
    "control": {"dtype": "bfloat16"},
}


@pytest.fixture(scope="module")
def claim():
    return make_claim(
        "parity",
        subject="subject",
        oracle="oracle",
        noise={"control": "control"},
        stages=["attn_out", "ffn_out"],
        layers=[0, 1],
        decode_steps=STEPS,
    )


@pytest.fixture(scope="module")
def captures(claim, qwen2_tiny):
    """What the claim asks for, on the trained model, every step fed the oracle's choices."""
    inputs = TokenInputs(name="prompt", tokens=tuple(range(40, 64)), forced=tuple(range(70, 82)))
    target = Target(name="tiny", model=str(qwen2_tiny), line=0)
    sessions = {
        role: engine("transformers").load(
            target,
            CaptureSpec(name=role, engine="transformers", line=0, options=options),
            root=qwen2_tiny,
            device="cpu",
        )
        for role, options in ROLES.items()
    }
    return {
        request: record(sessions[request.role], inputs, request.plan)
        for request in check("parity").requests(claim)
    }


def test_an_honest_subject_holds_over_its_decode_steps_and_every_fault_is_caught(claim, captures):
    found = check("parity").judge(claim, captures, compare_captures)

    assert found.outcome is Outcome.HELD, found.reasons
    assert found.coverage["sites"] == 2 * 2 * (1 + STEPS)
    assert found.faults["caught"] == found.faults["planted"] > 0
    assert len(found.reasons) == 1


def test_one_step_that_shows_another_steps_values_is_refuted(claim, captures):
    by_role = {request.role: (request, capture) for request, capture in captures.items()}
    request, subject = by_role["subject"]
    site = Site(5, 1, "attn_out")
    faulty = replace(subject.tensors[site], array=subject.tensors[Site(4, 1, "attn_out")].array)
    wrong = replace(subject, tensors={**subject.tensors, site: faulty})

    found = check("parity").judge(claim, {**captures, request: wrong}, compare_captures)

    assert found.outcome is Outcome.REFUTED
    assert str(site) in found.reasons[0]


def test_faults_are_planted_in_the_decode_steps_of_a_stage_as_in_one_tensor(captures):
    by_role = {request.role: capture for request, capture in captures.items()}
    subject, oracle = by_role["subject"], by_role["oracle"]
    everything = Pair(
        subject=subject, oracle=oracle, compare=compare_captures, refutes=lambda _: True
    )
    joined, _ = everything.joined()
    assert [(site.step, len(each.positions)) for site, each in joined.tensors.items()] == [
        (0, 24),
        (0, 24),
        (0, 24),
        (0, 24),
        (1, STEPS),
        (1, STEPS),
        (1, STEPS),
        (1, STEPS),
    ]
    for at, told in ((0, "prefill"), (1, "decode steps")):
        blind = replace(
            everything, refutes=lambda seen, at=at: (seen.sites[0].site.step > 0) == (at > 0)
        )
        found = plant([blind])
        assert 0 < found["caught"] < found["planted"], told
        assert set(found["missed"]) >= {fault.name for fault in FAULTS} - HEADED


def test_steps_that_were_fed_other_tokens_are_refused(captures):
    sides = [
        replace(capture, inputs=replace(capture.inputs, forced=()), continuation=chosen)
        for capture, chosen in zip(
            (next(iter(captures.values())),) * 2, ((5, 6, 7), (5, 9, 7)), strict=True
        )
    ]
    with pytest.raises(AlignmentError, match="step 2 was fed other tokens: subject 6, oracle 9"):
        compare_captures(*sides)
    prefill = [
        replace(each, tensors={s: t for s, t in each.tensors.items() if s.step == 0})
        for each in sides
    ]
    assert np.isfinite(compare_captures(*prefill).sites[0].total.rel_l2)
