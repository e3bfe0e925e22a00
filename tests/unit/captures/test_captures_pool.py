"""Models are loaded once and captures are made once, and what is given up is given up in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_falsify.captures.capture import CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.pool import CapturePool
from pytest_falsify.captures.record import record, summarise
from pytest_falsify.engines.base import Answer
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import Site


class Counting:
    """A session that counts its runs and shows what it is told to."""

    layer_count = 3
    stages = ("embedding", "attn_out", "lm_head")

    def __init__(self, *, hidden=()):
        self.runs = []
        self.hidden = hidden

    def identity(self):
        return Identity(engine="e", versions={}, weights="w", settings={}, device="cpu")

    def run(self, inputs, plan, sink):
        self.runs.append(plan)
        tensor = CapturedTensor(array=np.zeros((1, 256), np.float32), dims="t d", positions=(0,))
        for site in plan.sites(self.layer_count):
            if site.stage not in self.hidden:
                sink(site, tensor)
        return Answer(logits=(np.zeros((1, 4), np.float32),), continuation=())


PROMPT = TokenInputs(name="p", tokens=(1,))


def test_a_capture_that_covers_the_plan_is_shared_and_cut_to_it():
    pool, session = CapturePool(), Counting()
    pool.capture(session, PROMPT, Plan(stages=None))

    part = pool.capture(session, PROMPT, Plan(stages=("attn_out",), layers=(1,)))

    assert len(session.runs) == 1
    assert list(map(str, part.tensors)) == ["0/1/attn_out"]
    assert part.plan == Plan(stages=("attn_out",), layers=(1,))


def test_a_capture_that_lacks_something_is_made_again_with_both():
    pool, session = CapturePool(), Counting()
    pool.capture(session, PROMPT, Plan(stages=("embedding",)))
    pool.capture(session, PROMPT, Plan(stages=("attn_out",), layers=(0,)))
    pool.capture(session, PROMPT, Plan(stages=("embedding",)))

    assert [each.stages for each in session.runs] == [("embedding",), ("embedding", "attn_out")]


def test_a_fresh_capture_is_run_anew_and_is_exactly_what_was_asked():
    pool, session = CapturePool(), Counting()
    pool.capture(session, PROMPT, Plan(stages=None))

    bare = pool.capture(session, PROMPT, Plan(), is_fresh=True)

    assert len(session.runs) == 2
    assert session.runs[1].stages == ()
    assert bare.tensors == {}


def test_other_tokens_and_other_steps_are_other_captures():
    pool, session = CapturePool(), Counting()
    pool.capture(session, PROMPT, Plan(stages=None))
    pool.capture(session, TokenInputs(name="p", tokens=(2,)), Plan(stages=None))
    pool.capture(session, PROMPT, Plan(stages=None, decode_steps=2))

    assert len(session.runs) == 3


def test_the_oldest_captures_are_given_up_beyond_the_limit():
    session = Counting()
    size = record(session, PROMPT, Plan(stages=session.stages)).nbytes
    pool = CapturePool(max_bytes=2 * size)
    session.runs.clear()

    for token in (1, 2, 3, 3, 1):
        pool.capture(session, TokenInputs(name="p", tokens=(token,)), Plan(stages=None))

    assert len(session.runs) == 4


def test_a_site_that_was_planned_and_not_shown_is_listed_as_missing():
    session, plan = Counting(hidden=("attn_out",)), Plan(stages=("embedding", "attn_out"))

    capture, statistics = record(session, PROMPT, plan), summarise(session, PROMPT, plan)

    for run, seen in ((capture, capture.tensors), (statistics.run, statistics.sites)):
        assert list(map(str, run.missing)) == ["0/0/attn_out", "0/1/attn_out", "0/2/attn_out"]
        assert list(map(str, seen)) == ["0/-/embedding"]
    assert (statistics.run.tensors, statistics.run.logits) == ({}, ())


@pytest.mark.parametrize("layers", [(3,), (-1,), (0, 99)])
def test_layers_out_of_range_are_refused(layers):
    with pytest.raises(CaptureError, match="out of range"):
        list(Plan(stages=("attn_out",), layers=layers).sites(3))


def test_an_unresolved_plan_is_refused_rather_than_read_as_nothing():
    with pytest.raises(CaptureError, match="not resolved"):
        list(Plan(stages=None).sites(3))


def test_models_are_loaded_once_and_the_oldest_is_given_up(monkeypatch):
    from pytest_falsify.captures import pool as module
    from pytest_falsify.contracts.model import CaptureSpec, Target

    loaded = []

    class Engine:
        def load(self, target, spec, *, root, device):
            loaded.append(target.model)
            return Counting()

    monkeypatch.setattr(module, "engine", lambda name: Engine())
    pool = CapturePool(max_sessions=2)
    spec = CaptureSpec(name="c", engine="e", line=1)
    for model in ("./a", "./a", "./b", "./c", "./a"):
        target = Target(name="t", model=model, line=1)
        pool.session(target, spec, root=Path(), device="cpu")

    assert loaded == ["./a", "./b", "./c", "./a"]


def test_a_capture_whose_run_ended_early_does_not_serve_who_asks_for_the_answer():
    class Stopping(Counting):
        def run(self, inputs, plan, sink):
            answer = super().run(inputs, plan, sink)
            return answer if plan.needs_answer else replace(answer, logits=(), stopped_at=LAST)

    pool, session = CapturePool(), Stopping()
    part = Plan(stages=("attn_out",), needs_answer=False)
    assert pool.capture(session, PROMPT, part).logits == ()
    assert pool.capture(session, PROMPT, part).logits == ()
    assert len(session.runs) == 1

    assert len(pool.capture(session, PROMPT, Plan(stages=("embedding",))).logits) == 1
    assert len(pool.capture(session, PROMPT, part).logits) == 1
    assert [each.stages for each in session.runs] == [("attn_out",), ("embedding", "attn_out")]


LAST = Site(0, 2, "attn_out")
