"""A survey: every prompt once, in the order of the dataset, and never again what is known."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from pytest_falsify._surveying import _note
from pytest_falsify.canonical import digest
from pytest_falsify.checks.claim import Claim
from pytest_falsify.checks.declared import Declarations
from pytest_falsify.checks.kept_outcomes import LIFETIME, KeptOutcomes
from pytest_falsify.checks.marks import Mark
from pytest_falsify.checks.prompt_outcome import PromptOutcome
from pytest_falsify.checks.registry import check
from pytest_falsify.checks.survey import asked_of, begins_anew, run_survey, survey_key
from pytest_falsify.contracts.model import (
    CaptureSpec,
    CheckSpec,
    Contract,
    Falsifier,
    InputSpec,
    Target,
)
from pytest_falsify.engines.registry import engine
from pytest_falsify.errors import Blocked, ContractError
from pytest_falsify.ledger.evidence import Outcome

pytest.importorskip("torch")
pytest.importorskip("transformers")

TEXTS = ("The function returns", "Permission is hereby granted", "a new list", "If the file", "def")
RATE = check("rate")
KEY = digest("a key")


@pytest.fixture(scope="module")
def sessions(qwen2_tiny):
    """The trained model twice: with the attention on trial, and with the oracle's."""
    target = Target(name="here", model=str(qwen2_tiny), line=1)
    return {
        name: engine("transformers").load(
            target,
            CaptureSpec(name=name, engine="transformers", line=1, options={"attention": attention}),
            root=qwen2_tiny,
            device="cpu",
        )
        for name, attention in (("mine", "sdpa"), ("theirs", "eager"))
    }


@pytest.fixture
def claim(tmp_path):
    """A claim about five texts and one prompt that no model of this vocabulary can take."""
    lines = [{"id": f"t{n}", "prompt": text} for n, text in enumerate(TEXTS)]
    written(tmp_path / "d.jsonl", *lines)
    return claimed(tmp_path)


def written(path, *lines):
    path.write_text("".join(f"{json.dumps(each)}\n" for each in lines))


def claimed(folder, *, datasets=("d",), **more):
    parameters = {
        "subject": "mine",
        "oracle": "theirs",
        "inputs": list(datasets),
        "outcome": "argmax",
        "expect": {"rate": {"max": 0.5}},
        **more,
    }
    spec = CheckSpec(kind="rate", line=1, parameters=parameters)
    inputs = {name: InputSpec(name=name, line=1, dataset=f"{name}.jsonl") for name in datasets}
    options = {"mine": {"attention": "sdpa"}, "theirs": {}}
    captures = {
        name: CaptureSpec(name=name, engine="transformers", line=1, options=each)
        for name, each in options.items()
    }
    return Claim(
        contract=Contract(path=folder / "c.yaml", id="C", inputs=inputs, captures=captures),
        falsifier=Falsifier(id="FALSIFY-A-1", line=1, check=spec),
        target=Target(name="here", model="./m", line=1),
    )


class Meter:
    """How many run at once."""

    def __init__(self):
        self.inside = self.most = 0
        self.lock = threading.Lock()

    @contextmanager
    def counting(self):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        yield
        with self.lock:
            self.inside -= 1


class Shared:
    """A real session that several threads may share, and that notes how many do.

    Args:
        session: the model.
        concurrency: how many threads it says it takes; None: it says nothing.
    """

    def __init__(self, session, concurrency=None):
        self.session = session
        self.runs = 0
        self.fails_at = None
        self.meter, self.torch = Meter(), threading.Lock()
        if concurrency is not None:
            self.concurrency = concurrency

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run(self, inputs, plan, sink):
        with self.meter.lock:
            self.runs += 1
            number = self.runs
        if number == self.fails_at:
            msg = "the server is gone"
            raise Blocked(msg)
        with self.meter.counting():
            time.sleep(0.06 / number)  # the first to come is the last to go
            with self.torch:
                return self.session.run(inputs, plan, sink)


def shared(sessions, **concurrency):
    return {name: Shared(each, concurrency.get(name)) for name, each in sessions.items()}


@contextmanager
def taken_up(folder, key=KEY):
    """The outcomes of a run that is killed when it is done with them."""
    kept = KeptOutcomes.open(folder, key)
    try:
        yield kept
    finally:
        if kept is not None:
            kept.close(is_finished=False)


def test_every_prompt_is_run_once_and_nothing_large_is_kept(claim, sessions):
    told = []
    found = run_survey(claim, RATE, sessions, told=lambda *each: told.append(each))

    assert [each.id for each in found.outcomes] == [f"t{n}" for n in range(5)]
    assert all(each.subject == Mark(differs=False) for each in found.outcomes)
    assert all(each.planted == 2 and not each.missed for each in found.outcomes)
    assert [(done, total) for done, total, _ in told] == [(n, 5) for n in range(1, 6)]
    assert [rate.total for _, _, rate in told] == [1, 2, 3, 4, 5]
    assert len(found.captures) == 10
    assert sum(each.nbytes for each in found.captures.values()) == 0
    assert {(each.role, each.input) for each in found.captures} == {
        (role, f"t{n}") for role in ("subject", "oracle") for n in range(5)
    }
    assert all(
        run.inputs.tokens == sessions["theirs"].encode(TEXTS[int(request.input[1:])])
        for request, run in found.captures.items()
    )
    verdict = RATE.judge_survey(claim, found)
    assert verdict.outcome is Outcome.HELD
    assert verdict.faults["planted"] == verdict.faults["caught"] == 12


def test_outcomes_stand_in_the_order_of_the_dataset_whoever_is_first(claim, sessions):
    many = shared(sessions, mine=4, theirs=4)
    ended = []
    found = run_survey(claim, RATE, many, told=lambda done, _total, _rate: ended.append(done))

    assert [replace(each) for each in found.outcomes] == list(
        run_survey(claim, RATE, sessions).outcomes
    )
    assert [each.id for each in found.outcomes] == [f"t{n}" for n in range(5)]
    assert 1 < many["mine"].meter.most <= 4
    assert ended == [1, 2, 3, 4, 5]


def test_a_session_that_says_nothing_of_concurrency_runs_alone(claim, sessions):
    many = shared(sessions, mine=4)
    run_survey(claim, RATE, many)
    assert many["theirs"].meter.most == 1
    assert many["mine"].meter.most > 1


def test_two_sessions_that_say_nothing_of_concurrency_do_not_run_at_once(claim, sessions, tmp_path):
    """Two models of one process share its threads and its settings."""
    many = shared(sessions | {"good": sessions["theirs"]}, mine=4)
    many["good"].meter = many["theirs"].meter
    measured = claimed(tmp_path, noise={"control": "good"})
    found = run_survey(measured, RATE, many)
    assert all(each.control == Mark(differs=False) for each in found.outcomes)
    assert many["good"].runs == many["theirs"].runs == 5
    assert many["theirs"].meter.most == 1


def test_a_prompt_that_cannot_be_run_is_an_outcome_of_its_own(tmp_path, sessions):
    written(
        tmp_path / "d.jsonl",
        {"id": "fine", "tokens": [5, 6, 7]},
        {"id": "foreign", "tokens": [5, 99_999]},
    )
    found = run_survey(claimed(tmp_path), RATE, sessions)
    fine, foreign = found.outcomes
    assert fine.lack == ""
    assert (foreign.subject.differs, foreign.tokens) == (None, None)
    assert foreign.lack == "input `foreign` has a token id outside the vocabulary"
    assert {each.input for each in found.captures} == {"fine"}


@pytest.mark.parametrize("concurrency", [None, 3])
def test_what_goes_away_ends_a_survey_and_what_was_seen_stays(
    claim, sessions, tmp_path, concurrency
):
    dying = shared(sessions, mine=concurrency, theirs=concurrency)
    dying["mine"].fails_at = 4
    with taken_up(tmp_path) as kept, pytest.raises(Blocked, match="the server is gone"):
        run_survey(claim, RATE, dying, kept=kept)

    counting = shared(sessions)
    with taken_up(tmp_path) as again:
        seen = len(again.known)
        found = run_survey(claim, RATE, counting, kept=again)
    assert 0 < seen < 5
    assert counting["mine"].runs == 5 - seen
    assert sum(each.is_resumed for each in found.outcomes) == seen
    fresh = run_survey(claim, RATE, sessions)
    assert [replace(each, is_resumed=False) for each in found.outcomes] == list(fresh.outcomes)
    assert found.captures.keys() == fresh.captures.keys()
    assert {k: v.inputs for k, v in found.captures.items()} == {
        k: v.inputs for k, v in fresh.captures.items()
    }
    assert RATE.judge_survey(claim, found).observed["resumed"] == seen


def test_a_prompt_that_failed_is_tried_again(tmp_path, sessions):
    written(tmp_path / "d.jsonl", {"tokens": [99_999]}, {"tokens": [1]})
    with taken_up(tmp_path) as kept:
        run_survey(claimed(tmp_path), RATE, sessions, kept=kept)
    with taken_up(tmp_path) as again:
        assert len(again.known) == 1


def test_a_survey_that_ended_is_no_evidence_of_a_second_time(claim, sessions, tmp_path):
    for _ in range(2):
        kept, counting = KeptOutcomes.open(tmp_path / "kept", KEY), shared(sessions)
        found = run_survey(claim, RATE, counting, kept=kept)
        kept.close(is_finished=True)
        assert counting["mine"].runs == 5
        assert not any(each.is_resumed for each in found.outcomes)


OUTCOME = PromptOutcome(id="a", tokens=3, subject=Mark(differs=True), answers=((1,), (2,)))


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda data: data[:-1], 1),
        (lambda data: data[:-20], 1),
        (lambda data: data + b'{"fed": "sha256:3", "outc', 2),
        (lambda data: data + b"nonsense\n" + data, 2),
        (lambda data: data + b'{"fed": "sha256:3", "outcome": {"id": "c"}}\n', 2),
        (lambda data: data + b"[]\n", 2),
        (lambda data: data + b"x" * 5000, 2),
        (lambda data: data + b"x" * 5000 + b"\n" + data, 2),
        (lambda data: b"\xff" + data, 0),
    ],
)
def test_a_file_that_was_cut_off_is_read_as_far_as_it_is_whole(tmp_path, damage, left):
    with taken_up(tmp_path) as kept:
        kept.append("sha256:1", OUTCOME)
        kept.append("sha256:2", replace(OUTCOME, id="b"))
    kept.path.write_bytes(damage(kept.path.read_bytes()))

    with taken_up(tmp_path) as again:
        assert len(again.known) == left
        again.append("sha256:4", OUTCOME)
    with taken_up(tmp_path) as last:
        assert len(last.known) == left + 1
        assert last.find("sha256:4", "today") == replace(OUTCOME, id="today", is_resumed=True)
        assert last.find("sha256:9", "today") is None


def test_two_runs_do_not_write_one_file(tmp_path):
    with taken_up(tmp_path) as first, taken_up(tmp_path) as second:
        assert first is not None
        assert second is None
        with taken_up(tmp_path, digest("another")) as other:
            assert other is not None
    with taken_up(tmp_path) as third:
        assert third is not None


def test_what_nobody_took_up_again_is_given_up(tmp_path):
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - LIFETIME - 60,) * 2)
    with taken_up(tmp_path):
        assert not old.exists()
        assert new.exists()


def test_outcomes_are_known_by_all_that_decides_them(claim, sessions, tmp_path, qwen2_tiny):
    usual = survey_key(claim, RATE, sessions, "here")
    assert usual == survey_key(claim, RATE, dict(reversed(sessions.items())), "here")
    written(tmp_path / "d.jsonl", {"prompt": "other prompts are known by what is fed"})
    assert usual == survey_key(claim, RATE, sessions, "here")

    other = sessions | {"mine": sessions["theirs"]}
    assert usual != survey_key(claim, RATE, other, "here")
    assert usual != survey_key(claim, RATE, sessions, "another machine")
    longer = claimed(tmp_path, outcome="tokens")
    assert usual != survey_key(longer, RATE, sessions, "here")
    reweighed = replace(sessions["mine"], weights=digest("other weights"))
    assert usual != survey_key(claim, RATE, sessions | {"mine": reweighed}, "here")


def test_what_an_identity_does_not_cover_is_not_taken_up(claim, sessions):
    class Partly:
        is_identity_complete = False

    assert survey_key(claim, RATE, sessions | {"mine": Partly()}, "here") is None
    assert survey_key(claim, RATE, sessions | {"mine": object()}, "here") is None
    assert begins_anew(sessions) == ()
    assert begins_anew(sessions | {"mine": Partly()}) == ("mine",)


def test_a_long_survey_says_when_it_would_begin_anew_if_it_was_killed(sessions):
    assert _note(sessions) == ""
    assert _note(sessions | {"mine": object()}) == (
        "killed, it would begin anew: `mine` does not say all that decides answers"
    )


def test_another_content_of_the_dataset_makes_evidence_stale(claim, tmp_path):
    def sources(*lines):
        written(tmp_path / "d.jsonl", *lines)
        return Declarations().of(claim.contract, claim.falsifier, claim.target).sources

    assert sources({"prompt": "one"}) == sources({"prompt": "one"})
    assert sources({"prompt": "one"}) != sources({"prompt": "two"})


def test_prompts_of_two_datasets_are_told_apart(tmp_path, sessions):
    written(tmp_path / "d.jsonl", {"id": "same", "tokens": [1, 2]})
    written(tmp_path / "e.jsonl", {"id": "same", "tokens": [3, 4]})
    found = run_survey(claimed(tmp_path, datasets=("d", "e")), RATE, sessions)
    assert [each.id for each in found.outcomes] == ["d/same", "e/same"]


def test_a_single_prompt_is_no_dataset(tmp_path):
    claim = claimed(tmp_path)
    inputs = {"d": InputSpec(name="d", line=4, text="hello")}
    alone = replace(claim, contract=replace(claim.contract, inputs=inputs))
    with pytest.raises(ContractError, match="the input `d` is one prompt"):
        asked_of(alone, RATE)
