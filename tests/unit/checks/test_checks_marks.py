"""One prompt's answer beside the oracle's: another one, the same, or not to be told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from checks_support import make_capture, make_claim

from pytest_falsify.captures.shortlist import Shortlist
from pytest_falsify.checks.marks import Question, best
from pytest_falsify.checks.prompt_outcome import PromptOutcome
from pytest_falsify.errors import AlignmentError

ARGMAX = Question(kind="argmax")
TOKENS = Question(kind="tokens", new_tokens=3)
KL = Question(kind="kl", limit=0.01)
PEAKED = np.array([[0, 0, 0, 0], [5, 1, 0, -1]], np.float32)
WHOLE = ((Shortlist.of_logits(PEAKED[-1]),),)


def told(*row, dtype=np.float32):
    """A run whose next token has these logits."""
    return make_capture(logits=np.array([[0] * len(row), row], dtype))


def decoded(*tokens, broken_at=None):
    """A run that chose these tokens, with a NaN among the logits of one step."""
    capture = make_capture(continuation=tokens)
    logits = [np.array(PEAKED[-1:]) for _ in tokens]
    if broken_at is not None:
        logits[broken_at][0, 2] = np.nan
    return replace(capture, logits=tuple(logits))


def served(*pairs):
    """A run of a server that tells candidates in place of logits."""
    lists = ((Shortlist.of(pairs, 16),),)
    return replace(make_capture(), logits=(), shortlists=lists)


@pytest.mark.parametrize(
    ("subject", "oracle", "differs"),
    [
        (told(5, 1), told(9, 2), False),
        (told(1, 5), told(9, 2), True),
        (told(4, 4, 1), told(1, 4, 4), True),  # the first of equal ones is chosen
        (told(1, 4, 4), told(4, 4, 1), False),
        (told(np.nan, 5), told(2, 9), True),
        (told(np.inf, 5), told(9, 2), True),
        (told(-np.inf, 5), told(-np.inf, 9), False),
        (told(2, 9), told(np.nan, 5), None),
        (told(np.nan, 5), told(np.nan, 5), None),
        (told(2, 9), told(-np.inf, -np.inf), None),
        (replace(told(1, 5), logits=()), told(1, 5), None),
        (told(1, 5), replace(told(1, 5), logits=()), None),
        (served((1, -0.1), (0, -3)), told(1, 5), False),
        (served((0, -0.1), (1, -3)), told(1, 5), True),
        (served((1, np.nan)), told(1, 5), True),
        (replace(served(), shortlists=()), told(1, 5), None),
    ],
)
def test_another_next_token_is_another_answer(subject, oracle, differs):
    mark = ARGMAX.mark(subject, oracle)
    assert mark.differs is differs
    assert bool(mark.why) == (differs is None)


def telling(*steps):
    """A run of a server that chose 7, 8, 9 and tells these candidates of each step."""
    lists = tuple((Shortlist.of(each, 16),) if each else () for each in steps)
    return replace(decoded(7, 8, 9), logits=(), shortlists=lists)


TOLD = [((token, -0.1), (0, -3)) for token in (7, 8, 9)]
UNTOLD = telling(TOLD[0], (), TOLD[2])
BROKEN = telling(TOLD[0], ((8, np.nan), (0, -3)), TOLD[2])


@pytest.mark.parametrize(
    ("subject", "oracle", "differs"),
    [
        (telling(*TOLD), telling(*TOLD), False),
        (telling(*TOLD[:2]), telling(*TOLD), None),
        (telling(*TOLD), UNTOLD, None),
        (UNTOLD, telling(*TOLD), None),
        (UNTOLD, UNTOLD, None),
        (BROKEN, telling(*TOLD), True),
        (telling(*TOLD), BROKEN, None),
        (BROKEN, BROKEN, None),
    ],
)
def test_tokens_of_servers_count_with_the_numbers_that_were_told(subject, oracle, differs):
    mark = TOKENS.mark(subject, oracle)
    assert mark.differs is differs
    assert bool(mark.why) == (differs is None)


@pytest.mark.parametrize("question", [ARGMAX, KL])
def test_nothing_is_planted_in_what_was_not_told(question):
    assert list(question.faulty(telling((), *TOLD[1:]))) == []


@pytest.mark.parametrize(
    ("subject", "oracle", "differs", "at"),
    [
        (decoded(7, 8, 9), decoded(7, 8, 9), False, 0),
        (decoded(7, 1, 2), decoded(7, 8, 9), True, 1),
        (decoded(7, 8), decoded(7, 8, 9), None, 0),
        (decoded(7, 8), decoded(7, 8), None, 0),
        (decoded(), decoded(), None, 0),
        (decoded(6, 8), decoded(7, 8, 9), True, 0),  # cut short, and yet another answer
        (decoded(7, 8, 9, broken_at=1), decoded(7, 8, 9), True, 1),
        (decoded(7, 8, 1, broken_at=1), decoded(7, 8, 9), True, 1),
        (decoded(7, 8, 9), decoded(7, 8, 9, broken_at=2), None, 0),
        (replace(decoded(7, 8, 9), logits=()), decoded(7, 8, 9), False, 0),
    ],
)
def test_the_first_token_that_differs_is_found(subject, oracle, differs, at):
    mark = TOKENS.mark(subject, oracle)
    assert (mark.differs, mark.at) == (differs, at)
    assert bool(mark.why) == (differs is None)


def test_only_as_many_tokens_as_are_asked_for_count():
    fourth = replace(TOKENS, new_tokens=4)
    one, other = decoded(7, 8, 9, 1), decoded(7, 8, 9, 2)
    assert TOKENS.mark(one, other).differs is False
    assert fourth.mark(one, other).differs is True


@pytest.mark.parametrize(
    ("subject", "differs"),
    [
        (told(5, 1, 0, -1), False),
        (told(6, 2, 1, 0), False),
        (told(5, 2.5, 0, -1), True),
        (told(5, np.nan, 0, -1), True),
        (replace(told(5, 1), logits=()), None),
        (served((0, -0.1)), True),
        (served((0, np.nan)), True),
        (served((0, -0.0272), (1, -4.0272)), None),
        (replace(told(5, 1, 0, -1), shortlists=WHOLE, logits=()), False),
    ],
)
def test_a_distribution_beyond_its_limit_is_another_answer(subject, differs):
    assert KL.mark(subject, told(5, 1, 0, -1)).differs is differs


def test_an_oracle_that_is_no_distribution_cannot_tell():
    assert KL.mark(told(5, 1), told(np.nan, 1)).differs is None
    assert KL.mark(told(5, 1), told(-np.inf, -np.inf)).differs is None


def test_vocabularies_of_different_sizes_have_no_divergence():
    with pytest.raises(AlignmentError, match="logits of 2 and 3 choices"):
        KL.mark(told(5, 1, 0), told(5, 1))


@pytest.mark.parametrize("question", [ARGMAX, TOKENS, KL])
def test_other_tokens_of_the_same_prompt_are_not_compared(question):
    oracle = decoded(7, 8, 9)
    inputs = replace(oracle.inputs, tokens=(1, 2, 3))
    mark = question.mark(replace(oracle, inputs=inputs), oracle)
    assert (mark.differs, mark.why) == (None, "the tokenizers make different tokens of it")


@pytest.mark.parametrize(
    ("parameters", "question"),
    [
        ({"outcome": "argmax"}, Question(kind="argmax")),
        ({"outcome": "tokens", "new_tokens": 5}, Question(kind="tokens", new_tokens=5)),
        ({"outcome": {"kl": {"max": 0.5}}}, Question(kind="kl", limit=0.5)),
    ],
)
def test_a_claim_says_what_is_asked(parameters, question):
    found = Question.of(make_claim("rate", **parameters))
    assert found == question
    assert found.plan.decode_steps == (5 if question.kind == "tokens" else 0)


def test_the_best_of_bfloat16_logits_are_those_of_its_values():
    import ml_dtypes

    assert best(told(1, 3, 3, 2, dtype=ml_dtypes.bfloat16)) == (1, 2)


@pytest.mark.parametrize(
    ("question", "runs", "planted"),
    [
        (ARGMAX, (told(5, 1, 0), told(5, 1, 0)), 2),
        (ARGMAX, (served((1, -0.1), (0, -3)), told(1, 5)), 1),
        (KL, (told(5, 1, 0), told(5, 1, 0)), 2),
        (TOKENS, (decoded(7, 8, 9), decoded(7, 8, 9)), 2),
        (TOKENS, (replace(decoded(7, 8, 9), logits=()), decoded(7, 8, 9)), 1),
    ],
)
def test_faults_planted_in_an_answer_that_agrees_are_found(question, runs, planted):
    roles = dict(zip(("subject", "oracle"), runs, strict=True))
    outcome = PromptOutcome.of("p", question, roles)
    assert (outcome.planted, outcome.missed) == (planted, ())


def test_a_fault_that_changes_nothing_is_missed():
    """All logits are equal: rolled by one they are what they were."""
    flat = told(3, 3, 3)
    outcome = PromptOutcome.of("p", ARGMAX, {"subject": flat, "oracle": flat})
    assert outcome.missed == ("another token's logits",)


def test_nothing_is_planted_where_the_answer_is_another_one_already():
    outcome = PromptOutcome.of("p", ARGMAX, {"subject": told(1, 5), "oracle": told(5, 1)})
    assert outcome.planted == 0
    assert outcome.answers == ((1,), (0,))


def test_an_outcome_is_read_as_it_was_written_and_says_that_it_was_read():
    runs = {"subject": told(1, 5), "oracle": told(5, 1), "control": told(5, 1)}
    outcome = PromptOutcome.of("p", ARGMAX, runs)
    assert PromptOutcome.from_json(outcome.to_json()) == replace(outcome, is_resumed=True)
