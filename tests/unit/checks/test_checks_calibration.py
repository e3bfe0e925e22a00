"""Where what is allowed comes from, on the trained model: a control, a made one, or a guess."""

import re

import pytest
from checks_support import make_claim

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.record import record
from pytest_falsify.checks.registry import check
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines.registry import engine
from pytest_falsify.ledger.evidence import Outcome

pytest.importorskip("torch")
pytest.importorskip("transformers")

STAGES = ["q_post_rope", "attn_out", "ffn_out"]
TOKENS = tuple(range(40, 104))
OPTIONS = {
    "oracle": {"dtype": "float32"},
    "control": {"dtype": "bfloat16"},
    "imitated": {"dtype": "float32", "rounding": {"dtype": "bfloat16", "seed": 1}},
    "honest": {"dtype": "bfloat16", "attention": "sdpa"},
    "wrong": {"dtype": "bfloat16", "config": {"rope_parameters": {"rope_theta": 500.0}}},
}


@pytest.fixture(scope="module")
def sessions(qwen2_tiny):
    target = Target(name="tiny", model=str(qwen2_tiny), line=0)
    return {
        name: engine("transformers").load(
            target,
            CaptureSpec(name=name, engine="transformers", line=0, options=options),
            root=qwen2_tiny,
            device="cpu",
        )
        for name, options in OPTIONS.items()
    }


def judged(sessions, subject, tokens, **rule):
    """Return the verdict on a subject that is fed so many tokens."""
    claim = make_claim("parity", subject=subject, oracle="oracle", stages=STAGES, **rule)
    inputs = TokenInputs(name="prompt", tokens=TOKENS[:tokens])
    captures = {
        request: record(sessions[request.capture], inputs, request.plan)
        for request in check("parity").requests(claim)
    }
    return check("parity").judge(claim, captures, compare_captures)


def test_too_few_tokens_are_inconclusive_and_as_many_as_are_asked_for_decide(sessions):
    rule = {"noise": {"control": "control"}}
    few = judged(sessions, "honest", 3, **rule)
    assert few.outcome is Outcome.INCONCLUSIVE
    more = int(re.search(r"about (\d+) more tokens would decide", few.reasons[0])[1])
    assert judged(sessions, "honest", 3 + more, **rule).outcome is Outcome.HELD


def test_a_control_measures_and_a_limit_is_uncalibrated(sessions):
    measured = judged(sessions, "honest", 64, noise={"control": "control"})
    assert measured.outcome is Outcome.HELD
    assert measured.observed["calibration"] == "measured"
    stated = judged(sessions, "honest", 64, expect={"rel_l2": {"max": 0.05}})
    assert stated.outcome is Outcome.HELD
    assert stated.observed["calibration"] == "uncalibrated"
    assert [each.calibration for each in stated.judged] == ["uncalibrated"]


def test_where_no_control_exists_rounding_at_random_makes_one(sessions):
    rule = {"noise": {"control": "imitated"}}
    honest = judged(sessions, "honest", 64, **rule)
    assert honest.outcome is Outcome.HELD, honest.reasons
    assert honest.faults["caught"] == honest.faults["planted"]
    wrong = judged(sessions, "wrong", 64, **rule)
    assert wrong.outcome is Outcome.REFUTED
    assert "0/0/q_post_rope" in wrong.reasons[0]


def test_a_refutation_by_noise_tells_the_smallest_ratio_that_would_have_passed(sessions):
    wrong = judged(sessions, "wrong", 64, noise={"control": "control"})
    told = re.search(r"ratio: ([\d.e+]+), row_ratio: ([\d.e+]+)", wrong.judged[0].advice)
    ratio, row_ratio = (float(each) for each in told.groups())
    passing = {"control": "control", "ratio": ratio, "row_ratio": row_ratio}
    assert judged(sessions, "wrong", 64, noise=passing).outcome is not Outcome.REFUTED
    tighter = {"control": "control", "ratio": 0.95 * ratio, "row_ratio": 0.95 * row_ratio}
    assert judged(sessions, "wrong", 64, noise=tighter).outcome is not Outcome.HELD
