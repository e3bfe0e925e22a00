"""Padded batches, forced tokens, chosen positions and early ends: the same numbers, fewer of them.

The reference of every test is the plain run of one input, which ``test_transformers_engine`` holds
against transformers itself.
"""

from __future__ import annotations

import numpy as np
import pytest

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines import forward as forward_module
from pytest_falsify.engines.forward import LEFT, RIGHT, Batch, Forward, beside
from pytest_falsify.engines.registry import engine
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import Site

pytest.importorskip("torch")
pytest.importorskip("transformers")

TOKENS = (17, 260, 33, 900, 4, 71, 812, 5)
PROMPT = TokenInputs(name="p", tokens=TOKENS)
OTHERS = tuple(
    TokenInputs(name=f"p{length}", tokens=tuple(range(40, 40 + length))) for length in (3, 11, 1)
)
NOISE = 2e-5
"""The relative L2 error that float32 sums in another order leave at any site of this model."""


def load(folder, **options):
    target = Target(name="t", model=str(folder), line=1)
    spec = CaptureSpec(name="c", engine="transformers", line=1, options=options)
    return engine("transformers").load(target, spec, root=folder, device="cpu")


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def session(request, qwen2_tiny):
    return load(qwen2_tiny, attention=request.param)


@pytest.fixture(scope="module")
def eager(qwen2_tiny):
    return load(qwen2_tiny)


def all_of(session, **more):
    return Plan(stages=(*session.stages, *session.on_request), **more)


def worst(subject, oracle):
    comparison = compare_captures(subject, oracle)
    assert not comparison.missing
    assert comparison.sites
    return max(each.worst_row.rel_l2 for each in comparison.sites)


def batched(session, inputs, plan, side):
    """The captures of some inputs that ran as one batch."""
    seen = [{} for _ in inputs]
    answers = session.run_batch(
        Batch(rows=tuple(inputs), side=side), plan, tuple(each.__setitem__ for each in seen)
    )

    class Ran:
        layer_count = session.layer_count
        identity = session.identity

        def __init__(self, answer, tensors):
            self.answer, self.tensors = answer, tensors

        def run(self, _inputs, _plan, sink):
            for site, tensor in self.tensors.items():
                sink(site, tensor)
            return self.answer

    ran = zip(answers, seen, inputs, strict=True)
    return [record(Ran(answer, tensors), own, plan) for answer, tensors, own in ran]


@pytest.mark.parametrize(("side", "steps"), [(LEFT, 0), (LEFT, 3), (RIGHT, 0)])
def test_every_sequence_of_a_padded_batch_has_the_numbers_of_its_own_run(session, side, steps):
    plan = all_of(session, decode_steps=steps)
    inputs = (PROMPT, *OTHERS)

    for own, capture in zip(inputs, batched(session, inputs, plan, side), strict=True):
        alone = record(session, own, plan)
        assert worst(capture, alone) < NOISE, own.name
        assert capture.continuation == alone.continuation
        for one, other in zip(capture.logits, alone.logits, strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


SPOILT = {
    "a mask that hides nothing": lambda placing: {
        **placing,
        "attention_mask": placing["attention_mask"].fill_(1),
    },
    "no positions": lambda placing: {"attention_mask": placing["attention_mask"]},
    "a mask that hides one token": lambda placing: {
        **placing,
        "attention_mask": placing["attention_mask"].roll(1, dims=1),
    },
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_wrong_mask_and_wrong_positions_would_be_seen(eager, monkeypatch, spoilt):
    plan = all_of(eager)
    alone = record(eager, PROMPT, plan)
    usual = Forward._placing
    monkeypatch.setattr(Forward, "_placing", lambda self, step: SPOILT[spoilt](usual(self, step)))

    capture = batched(eager, (PROMPT, *OTHERS), plan, LEFT)[0]

    assert worst(capture, alone) > 1000 * NOISE


def test_it_does_not_matter_which_token_fills_up_a_batch(eager, monkeypatch):
    plan = all_of(eager)
    usual = batched(eager, (PROMPT, *OTHERS), plan, LEFT)[0]
    monkeypatch.setattr(forward_module, "PADDING", 1234)

    other = batched(eager, (PROMPT, *OTHERS), plan, LEFT)[0]

    assert all(
        usual.tensors[site].array.tobytes() == each.array.tobytes()
        for site, each in other.tensors.items()
    )


@pytest.mark.parametrize("side", [LEFT, RIGHT])
def test_the_option_batch_runs_an_input_beside_longer_ones(qwen2_tiny, eager, side):
    session = load(qwen2_tiny, batch={"size": 3, "padding": side})
    plan = all_of(session)

    capture = record(session, PROMPT, plan)

    assert 0 < worst(capture, record(eager, PROMPT, plan)) < NOISE
    assert session.identity().digest != eager.identity().digest
    lengths = [len(each.tokens) for each in beside(PROMPT, size=3, side=side, longest=9).rows]
    assert lengths == [8, 9, 9]


def test_padding_is_on_the_left_when_nothing_is_said(qwen2_tiny):
    options = {"size": 2}, {"size": 2, "padding": LEFT}

    assert len({load(qwen2_tiny, batch=each).identity().digest for each in options}) == 1


def test_decode_steps_after_padding_on_the_right_are_refused(qwen2_tiny):
    session = load(qwen2_tiny, batch={"size": 2, "padding": RIGHT})

    with pytest.raises(CaptureError, match="padding on the right"):
        record(session, PROMPT, Plan(decode_steps=1))


def test_forcing_the_greedy_tokens_changes_no_bit(session):
    plan = all_of(session, decode_steps=3)
    free = record(session, PROMPT, plan)

    forced = record(session, TokenInputs(name="p", tokens=TOKENS, forced=free.continuation), plan)

    assert forced.continuation == free.continuation
    assert [each.tobytes() for each in forced.logits] == [each.tobytes() for each in free.logits]
    for site, each in free.tensors.items():
        assert forced.tensors[site].array.tobytes() == each.array.tobytes(), site


def test_forced_tokens_are_what_decode_steps_are_fed(session):
    """A decode step shows what a prefill of the same tokens shows at its last position."""
    forced = (7, 300, 21)
    plan = all_of(session, decode_steps=3)
    capture = record(session, TokenInputs(name="p", tokens=TOKENS, forced=forced), plan)

    whole = record(session, TokenInputs(name="w", tokens=TOKENS + forced), all_of(session))

    for step in (1, 2, 3):
        found = capture.tensors[Site(step, 3, "ffn_out")].array
        expected = whole.tensors[Site(0, 3, "ffn_out")].array[[len(TOKENS) + step - 1]]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    greedy = [int(each[-1].argmax()) for each in capture.logits]
    assert list(capture.continuation) == greedy[:3]
    assert capture.continuation != forced


def test_forced_tokens_let_other_precisions_be_compared_beyond_a_greedy_tie(qwen2_tiny, eager):
    """Free runs may part at a near-tie; what they show afterwards is of different tokens."""
    other = load(qwen2_tiny, dtype="bfloat16")
    plan = Plan(stages=("post_ffn_residual",), decode_steps=4)
    forced = TokenInputs(name="p", tokens=TOKENS, forced=(9, 9, 1000, 3))

    assert worst(record(other, forced, plan), record(eager, forced, plan)) < 0.1
    free = record(other, PROMPT, plan)
    with pytest.raises(Exception, match="different tokens"):
        compare_captures(free, record(eager, forced, plan))


@pytest.mark.parametrize(
    ("forced", "words"), [((1, 2), "forces 2 tokens"), ((1, 2, 10**6), "outside the vocabulary")]
)
def test_forced_tokens_that_do_not_fit_are_refused(eager, forced, words):
    with pytest.raises(CaptureError, match=words):
        record(eager, TokenInputs(name="p", tokens=TOKENS, forced=forced), Plan(decode_steps=3))


@pytest.mark.parametrize("positions", [(-1,), (0, 5), (5, 0, -3, 5)])
def test_chosen_positions_are_those_rows_and_their_places(eager, positions):
    plan = all_of(eager, decode_steps=1)
    full = record(eager, PROMPT, plan)

    cut = record(eager, PROMPT, all_of(eager, decode_steps=1, positions=positions))

    places = sorted({each % len(TOKENS) for each in positions})
    for site, each in full.tensors.items():
        found = cut.tensors[site]
        axis = each.dims.split().index("t")
        expected = each.array.take(places, axis=axis) if site.step == 0 else each.array
        assert found.array.tobytes() == expected.tobytes(), site
        assert found.positions == (tuple(places) if site.step == 0 else each.positions)
    assert [each.tobytes() for each in cut.logits] == [each.tobytes() for each in full.logits]


@pytest.mark.parametrize("position", [8, -9])
def test_positions_out_of_range_are_refused(eager, position):
    with pytest.raises(CaptureError, match=f"position {position} is out of range"):
        record(eager, PROMPT, all_of(eager, positions=(position,)))


def test_a_run_may_end_at_the_last_planned_site_and_says_that_it_has_no_answer(session):
    plan = Plan(stages=("attn_norm", "attn_out"), layers=(0, 1), needs_answer=False)
    ran = []
    handle = session.model.model.layers[2].register_forward_hook(lambda *_: ran.append(2))
    seen = {}

    answer = session.run(PROMPT, plan, seen.__setitem__)
    handle.remove()

    assert answer.stopped_at == Site(0, 1, "attn_out")
    assert answer.logits == ()
    assert ran == []
    full = record(session, PROMPT, Plan(stages=plan.stages, layers=plan.layers))
    assert len(full.logits) == 1
    for site, each in full.tensors.items():
        assert seen[site].array.tobytes() == each.array.tobytes()


def test_only_the_last_step_ends_early(eager):
    plan = Plan(stages=("attn_out",), layers=(0,), decode_steps=2, needs_answer=False)

    seen = {}
    answer = eager.run(PROMPT, plan, seen.__setitem__)

    assert list(map(str, seen)) == ["0/0/attn_out", "1/0/attn_out", "2/0/attn_out"]
    assert len(answer.logits) == 2
    assert answer.stopped_at == Site(2, 0, "attn_out")
    assert not any(each._forward_hooks for each in eager.model.modules())


def test_a_run_goes_on_where_ending_early_saves_nothing_and_its_capture_says_so(eager):
    plan = Plan(stages=("attn_out",), layers=(0, 3), needs_answer=False)

    capture = record(eager, PROMPT, plan)

    assert len(capture.logits) == 1
    assert capture.plan.needs_answer


class Plain:
    """An engine that knows neither forced tokens nor positions."""

    def __init__(self, session):
        self.session = session
        self.layer_count = session.layer_count
        self.identity = session.identity

    def run(self, inputs, plan, sink):
        return self.session.run(inputs, plan, sink)


@pytest.mark.parametrize(
    ("inputs", "plan", "words"),
    [
        (TokenInputs(name="p", tokens=TOKENS, forced=(1,)), Plan(decode_steps=1), "forced"),
        (PROMPT, Plan(stages=("attn_out",), positions=(-1,)), "positions"),
    ],
)
def test_an_engine_is_not_asked_for_what_it_would_leave_undone(eager, inputs, plan, words):
    with pytest.raises(CaptureError, match=f"does not understand `{words}`"):
        record(Plain(eager), inputs, plan)
    assert record(Plain(eager), PROMPT, Plan(decode_steps=1)).continuation
