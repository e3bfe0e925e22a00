"""The check `routing`: what it asks for, what speaks against a subject, what is not told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from checks_support import make_claim

from pytest_falsify.captures.capture import Capture, CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.base import Request
from pytest_falsify.checks.registry import check
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.routing.captured import INDICES, LOGITS, STAGES, WEIGHTS
from pytest_falsify.routing.gate import Gate, choose
from pytest_falsify.stages.vocabulary import Site

TOKENS, EXPERTS, ACTIVE, LAYERS = 32, 8, 2, 2
NORM = "ffn_norm"


def values(seed=0, noise=0.0, step_tokens=(TOKENS,), gate=None):
    """Return what honest routers show, off by noise, at every step."""
    found = {}
    random, disturb = np.random.default_rng(0), np.random.default_rng(seed)
    for layer in range(LAYERS):
        for step, tokens in enumerate(step_tokens):
            logits = random.normal(size=(tokens, EXPERTS))
            logits = (logits + noise * disturb.normal(size=logits.shape)).astype(np.float32)
            hidden = random.normal(size=(tokens, 4))
            hidden = (hidden + noise * disturb.normal(size=hidden.shape)).astype(np.float32)
            chosen = choose(logits, ACTIVE, gate or Gate())
            arrays = {
                NORM: hidden,
                LOGITS: logits,
                WEIGHTS: chosen.weights.astype(np.float32),
                INDICES: chosen.indices,
            }
            found |= {Site(step, layer, name): array for name, array in arrays.items()}
    return found


def capture(arrays, *, steps=0, continuation=(), missing=()):
    random = np.random.default_rng(5)
    return Capture(
        identity=Identity(engine="e", versions={}, weights="w", settings={}, device="cpu"),
        inputs=TokenInputs(name="prompt", tokens=tuple(range(TOKENS))),
        plan=Plan(stages=(NORM, *STAGES), decode_steps=steps),
        tensors={
            site: CapturedTensor(
                array=array,
                dims="t d" if site.stage == NORM else "t e",
                positions=tuple(range(len(array))),
            )
            for site, array in arrays.items()
        },
        logits=(random.normal(size=(TOKENS, 64)), *(random.normal(size=(1, 64)),) * steps),
        continuation=continuation,
        missing=missing,
    )


def judge(subject, oracle=None, control=None, **parameters):
    roles = {"subject": subject, "oracle": oracle or capture(values())}
    noise = {}
    if control is not None:
        roles["control"] = control
        noise = {"noise": {"control": "c"}}
    captures = {
        Request(role=role, capture=role[0], input="prompt", plan=Plan()): each
        for role, each in roles.items()
    }
    claim = make_claim("routing", subject="s", oracle="o", **noise, **parameters)
    return check("routing").judge(claim, captures, compare_captures)


@pytest.fixture
def control():
    return capture(values(seed=2, noise=1e-4))


def test_it_asks_for_the_routers_and_their_inputs_in_every_step():
    claim = make_claim(
        "routing", subject="s", oracle="o", noise={"control": "c"}, layers=[1], decode_steps=3
    )
    requests = check("routing").requests(claim)
    assert [each.role for each in requests] == ["subject", "oracle", "control"]
    assert {each.plan.stages for each in requests} == {(NORM, *STAGES)}
    assert {(each.plan.layers, each.plan.decode_steps) for each in requests} == {((1,), 3)}


def test_noise_like_the_controls_is_held_and_every_fault_is_caught(control):
    found = judge(capture(values(seed=1, noise=1e-4)), control=control)
    assert found.outcome is Outcome.HELD
    assert found.observed["calibration"] == "measured"
    assert found.observed["gate"] == "softmax"
    assert found.faults == {"planted": 4, "caught": 4}


def test_the_gate_is_the_one_that_explains_the_oracle():
    gate = Gate(is_renormalised=True)
    arrays = values(gate=gate)
    found = judge(capture(arrays), capture(arrays))
    assert found.outcome is Outcome.HELD
    assert found.observed["gate"] == "softmax, renormalised"


def test_a_subject_that_forgets_to_renormalise_is_refuted(control):
    oracle = capture(values(gate=Gate(is_renormalised=True)))
    found = judge(capture(values()), oracle)
    assert found.outcome is Outcome.REFUTED
    assert (
        "weights are not those that the gate makes of the router's own logits" in found.reasons[0]
    )


def test_a_dispatch_to_other_experts_than_the_logits_say_is_refuted(control):
    arrays = values(seed=1, noise=1e-4)
    site = Site(0, 1, INDICES)
    arrays[site] = (arrays[site] + 1) % EXPERTS
    found = judge(capture(arrays), control=control)
    assert found.outcome is Outcome.REFUTED
    assert "token 0, layer 1: the experts are not those" in found.reasons[0]
    assert found.observed["flips"] > 0


def test_a_router_that_is_off_is_told_from_one_whose_input_is_off(control):
    honest = values(seed=1, noise=1e-4)
    off = values(seed=1, noise=0.05)
    router = {**honest, **{s: a for s, a in off.items() if s.layer == 1 and s.stage != NORM}}
    both = {**honest, **{s: a for s, a in off.items() if s.layer == 1}}
    told = [judge(capture(each), control=control).reasons[-1] for each in (router, both)]
    assert "layer 1: the router itself is at fault" in told[0]
    assert "layer 1: its input is wrong already" in told[1]


def test_without_a_control_a_changed_choice_is_refuted_and_uncalibrated():
    found = judge(capture(values(seed=1, noise=0.05)))
    assert found.outcome is Outcome.REFUTED
    assert found.observed["calibration"] == "uncalibrated"


def test_bounds_refute_beside_the_judgement(control):
    found = judge(
        capture(values(seed=1, noise=1e-4)), control=control, expect={"weight_error": {"max": 1e-9}}
    )
    assert found.outcome is Outcome.REFUTED
    assert "weight_error max" in found.reasons[0]


def test_decode_steps_are_compared_as_far_as_both_were_fed_the_same(control):
    steps = (TOKENS, 1, 1)
    oracle = capture(values(step_tokens=steps), steps=2, continuation=(7, 8))
    same = judge(oracle, oracle)
    other = judge(capture(values(step_tokens=steps), steps=2, continuation=(7, 9)), oracle)
    assert (same.outcome, same.observed["tokens"]) == (Outcome.HELD, TOKENS + 2)
    assert other.observed["tokens"] == TOKENS + 1
    assert other.observed["tokens_diverge_at"] == {"prompt": TOKENS + 1}


def test_a_missing_site_supports_nothing(control):
    part = replace(capture(values()), missing=(Site(0, 1, LOGITS),))
    assert judge(part, control=control).outcome is Outcome.INCONCLUSIVE


def test_choices_that_no_known_rule_explains_support_nothing_unless_the_rule_is_stated():
    arrays = values()
    for layer in range(LAYERS):
        worst = np.argsort(arrays[Site(0, layer, LOGITS)], axis=1)[:, :ACTIVE]
        arrays[Site(0, layer, INDICES)] = worst
    strange = capture(arrays)
    found = judge(strange, strange)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "state `gate`" in found.reasons[0]
    assert judge(strange, strange, gate={"score": "softmax"}).outcome is Outcome.REFUTED


def test_what_is_joined_is_the_next_tokens_divergence_where_experts_changed(control):
    oracle = capture(values())
    off = capture(values(seed=1, noise=0.05))
    shifted = replace(off, logits=tuple(each + np.eye(64)[0] for each in off.logits))
    joined = judge(shifted, oracle).observed["next_token_kl"]
    assert set(joined) == {"changed", "unchanged"}
    assert joined["changed"] > 0
