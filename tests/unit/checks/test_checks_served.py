"""Verdicts on what servers tell: refuted by what is told, held by no more than that."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from checks_support import make_claim

from pytest_falsify.captures.capture import Capture, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.shortlist import Shortlist
from pytest_falsify.checks.base import Request
from pytest_falsify.checks.decode import FREE
from pytest_falsify.checks.kv import legs_of
from pytest_falsify.checks.registry import check, check_kinds
from pytest_falsify.checks.served import is_served, judge_served
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.errors import CaptureError
from pytest_falsify.ledger.evidence import Outcome

VOCABULARY = 16
STEPS = 4
RNG = np.random.default_rng(7)
LOGITS = [
    RNG.normal(scale=3, size=(5 if step == 0 else 1, VOCABULARY)) for step in range(STEPS + 1)
]
IDENTITY = Identity(engine="openai", versions={}, weights="w", settings={}, device="served")


def served(logits=None, *, top=6, rows=1, **changes):
    """What a server tells that computes these logits."""
    logits = LOGITS if logits is None else logits
    lists = tuple(
        tuple(Shortlist.of_logits(row).best(top) for row in step[-rows:]) for step in logits
    )
    values = {
        "identity": IDENTITY,
        "inputs": TokenInputs(name="prompt", tokens=(1, 2, 3, 4, 5)),
        "plan": Plan(decode_steps=STEPS),
        "tensors": {},
        "logits": (),
        "continuation": tuple(int(step[-1].argmax()) for step in logits[:STEPS]),
        "shortlists": lists,
    }
    return Capture(**{**values, **changes})


def open_(logits=None):
    """The same of an engine that shows all logits."""
    logits = LOGITS if logits is None else logits
    return replace(served(logits), logits=tuple(logits), shortlists=None)


def moved(step, amount, *, token=None):
    """The logits, with those of one token after a step raised."""
    found = [each.copy() for each in LOGITS]
    row = found[step][-1]
    row[row.argsort()[-2] if token is None else token] += amount
    return found


def request(role, run=0):
    return Request(role=role, capture=role[0], input="prompt", plan=Plan(), run=run)


def judge(kind, subject, oracle, control=None, **more):
    captures = {request("subject"): subject, request("oracle"): oracle}
    if kind == "decode":
        captures[request("subject", FREE)] = more.pop("free", subject)
    if control is not None:
        captures[request("control")] = control
        more["noise"] = {"control": "c"}
    assert is_served(captures)
    claim = make_claim(kind, subject="s", oracle="o", **more)
    return judge_served(check(kind), claim, captures)


def test_the_same_tokens_hold_and_wrong_ones_would_not():
    verdict = judge("tokens", served(), served(), new_tokens=STEPS)

    assert verdict.outcome is Outcome.HELD
    assert verdict.observed["agreed"] == STEPS
    assert verdict.faults == {"planted": 3, "caught": 3}


@pytest.mark.parametrize("oracle", [served(), open_()], ids=["served", "logits"])
def test_the_first_token_that_differs_is_named_with_its_margin(oracle):
    verdict = judge("tokens", served(moved(2, 9)), oracle, new_tokens=STEPS)

    best, second = np.sort(LOGITS[2][-1])[::-1][:2]
    assert verdict.outcome is Outcome.REFUTED
    assert verdict.observed == {"agreed": 2, "margin": pytest.approx(best - second)}
    assert f"(by a margin of {best - second:.3g})" in verdict.reasons[0]
    assert verdict.reasons[0].startswith("token 3 of 4 on prompt is ")


def tied(lead):
    """The logits, with the second best of step 2 so far above the best."""
    found = [each.copy() for each in LOGITS]
    row = found[2][-1]
    second, best = row.argsort()[-2:]
    row[second] = row[best] + lead
    return found


def test_a_near_tie_that_the_control_explains_decides_nothing():
    control = tied(-0.01)
    control[2][-1] += np.where(np.arange(VOCABULARY) % 2, 0.05, -0.05)

    explained = judge(
        "tokens", served(tied(0.01)), served(tied(-0.01)), served(control), new_tokens=STEPS
    )
    bare = judge("tokens", served(tied(0.01)), served(tied(-0.01)), new_tokens=STEPS)

    assert explained.outcome is Outcome.INCONCLUSIVE
    assert "near-tie that noise explains" in explained.reasons[0]
    assert bare.outcome is Outcome.REFUTED


def test_an_answer_that_ended_early_decides_nothing_and_says_why():
    caveat = "the server cut an answer of 5 tokens after 2"
    short = served(continuation=served().continuation[:2], caveats=(caveat,))

    verdict = judge("tokens", short, served(), new_tokens=STEPS)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons == (f"an answer ended after 2 of 4 tokens on prompt; {caveat}",)


@pytest.mark.parametrize("kind", ["tokens", "argmax", "topk", "deterministic"])
def test_a_server_that_tells_no_ids_decides_nothing_and_says_why(kind):
    why = "the server does not name tokens by their ids"
    silent = served(shortlists=((),), continuation=(), caveats=(why,))

    verdict = judge(kind, silent, served())

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert why in verdict.reasons[0]


@pytest.mark.parametrize("step", [0, 2, STEPS])
@pytest.mark.parametrize("silent", ["subject", "oracle", "both"])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("tokens", {"new_tokens": STEPS}),
        ("deterministic", {}),
        ("decode", {"new_tokens": STEPS, "expect": {"kl": {"max": 1}}}),
    ],
)
def test_a_step_without_candidates_decides_nothing(kind, more, silent, step):
    lists = list(served().shortlists)
    lists[step] = ()
    gap = served(shortlists=tuple(lists))
    subject, oracle = (gap, served()) if silent == "subject" else (served(), gap)

    verdict = judge(kind, gap if silent == "both" else subject, oracle, **more)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert f"told no candidates of step {step} on prompt" in verdict.reasons[0]


@pytest.mark.parametrize("kind", ["tokens", "deterministic"])
def test_tokens_without_lists_decide_nothing(kind):
    short = served(shortlists=served().shortlists[:2])

    verdict = judge(kind, short, short, new_tokens=STEPS)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons == ("the subject told no candidates of step 2 on prompt",)


@pytest.mark.parametrize("kind", ["tokens", "argmax", "topk"])
def test_servers_with_other_tokenizers_are_not_compared(kind):
    other = served(inputs=TokenInputs(name="prompt", tokens=(1, 2, 3)))

    verdict = judge(kind, other, served())

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "given other tokens on prompt" in verdict.reasons[0]


def poisoned(capture, step=0):
    first = capture.shortlists[step][-1]
    bad = replace(first, logprobs=(math.nan, *first.logprobs[1:]))
    lists = list(capture.shortlists)
    lists[step] = (*lists[step][:-1], bad)
    return replace(capture, shortlists=tuple(lists))


EXPECT = {"js": {"max": 0.3}}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("tokens", {"new_tokens": STEPS}),
        ("argmax", {}),
        ("topk", {"k": 3}),
        ("distribution", {"expect": EXPECT}),
    ],
)
def test_nan_of_the_subject_refutes_and_of_the_oracle_decides_nothing(kind, more):
    assert judge(kind, poisoned(served()), served(), **more).outcome is Outcome.REFUTED
    assert judge(kind, served(), poisoned(served()), **more).outcome is Outcome.INCONCLUSIVE
    both = judge(kind, poisoned(served()), poisoned(served()), **more)
    assert both.outcome is Outcome.INCONCLUSIVE


def test_the_best_tokens_of_every_position_that_is_told_are_compared():
    oracle = served(rows=5)
    other = [each.copy() for each in LOGITS]
    other[0][1] = other[0][1][::-1]

    assert judge("argmax", served(rows=5), oracle).observed["tokens"] == 5
    verdict = judge("argmax", served(other, rows=5), oracle)
    assert verdict.outcome is Outcome.REFUTED
    assert "at token 1:" in verdict.reasons[0]
    assert judge("argmax", served(other, rows=1), oracle).observed["tokens"] == 1


def test_topk_needs_as_many_candidates_as_it_compares():
    verdict = judge("topk", served(top=4), served(), k=5)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons == ("the subject tells 4 candidates, not 5",)


def test_topk_plants_what_it_would_catch():
    verdict = judge("topk", served(), served(), k=3)

    assert verdict.outcome is Outcome.HELD
    assert verdict.faults["planted"] == verdict.faults["caught"] >= 3


def test_a_distribution_is_refuted_by_what_is_told():
    verdict = judge("distribution", served(moved(0, 6)), served(), expect={"kl": {"max": 0.01}})

    assert verdict.outcome is Outcome.REFUTED
    assert "kl max is no less than " in verdict.reasons[0]
    assert verdict.observed["kl"]["max"]["low"] > 0.01


def test_equal_lists_do_not_hold_what_they_do_not_show():
    expect = {"kl": {"max": 0.01}}

    open_question = judge("distribution", served(), served(), expect=expect)
    whole = judge("distribution", served(top=VOCABULARY), open_(), expect=expect)

    assert open_question.outcome is Outcome.INCONCLUSIVE
    assert "between 0 and inf nats" in open_question.reasons[0]
    assert whole.outcome is Outcome.HELD
    assert whole.faults["caught"] == whole.faults["planted"] == 4


def test_top_k_and_js_can_hold_on_short_lists():
    expect = {"top_k": {"k": 4, "max": 1e-3}, "js": {"max": 0.3}}

    verdict = judge("distribution", served(), served(), expect=expect)

    assert verdict.outcome is Outcome.HELD
    assert verdict.observed["js"]["max"]["high"] < 0.3


KL = {"expect": {"kl": {"max": 0.01}}, "new_tokens": STEPS}


def test_decode_on_whole_lists_holds_and_names_no_leg():
    verdict = judge("decode", served(top=VOCABULARY), open_(), **KL)

    assert verdict.outcome is Outcome.HELD
    assert verdict.observed["leg"] == "untold"
    assert verdict.faults["planted"] == verdict.faults["caught"]


def test_decode_is_refuted_by_a_step_that_moves_too_far():
    verdict = judge("decode", served(moved(3, 5)), served(), free=served(), **KL)

    assert verdict.outcome is Outcome.REFUTED
    assert verdict.reasons[0].startswith("max KL is no less than ")


def test_decode_is_refuted_by_the_first_token_that_differs():
    verdict = judge("decode", served(), served(), free=served(moved(3, 9)), **KL)

    assert verdict.outcome is Outcome.REFUTED
    assert verdict.reasons[0].startswith("token 4 of 4 on prompt is ")


def test_decode_on_short_lists_decides_nothing():
    verdict = judge("decode", served(), served(), **KL)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "`top: all` would decide" in verdict.reasons[0]


def repeated(*answers):
    captures = {request("subject", run): each for run, each in enumerate(answers)}
    return judge_served(check("deterministic"), make_claim("deterministic", subject="s"), captures)


def test_answers_are_repeatable_when_every_number_is():
    nearly = [*LOGITS[:-1], LOGITS[-1] * (1 + 1e-9)]

    assert repeated(served(), served(), served()).outcome is Outcome.HELD
    assert repeated(served(), served()).faults == {"planted": 2, "caught": 2}
    assert repeated(served(), served(nearly)).outcome is Outcome.REFUTED
    assert repeated(served(), served(moved(1, 9))).reasons == (
        "prompt, answer 2: its tokens are not the first answer's",
    )
    assert repeated(served()).outcome is Outcome.INCONCLUSIVE


def test_no_leg_is_told_of_servers():
    captures = {request("subject"): served(), request("oracle"): served()}
    claim = make_claim("kv", subject="s", oracle="o", expect={"rel_l2": {"max": 1}})

    with pytest.raises(CaptureError, match="a server shows no cache"):
        legs_of(claim, captures, compare_captures)


JUDGED = {"argmax", "decode", "deterministic", "distribution", "tokens", "topk"}


@pytest.mark.parametrize("kind", sorted({*check_kinds()} - JUDGED - {"command", "rate"}))
def test_what_servers_do_not_show_is_inconclusive_with_a_reason(kind):
    verdict = judge(kind, served(), served())

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons[0].startswith(f"kind `{kind}` looks at what servers do not show; o, s ")
