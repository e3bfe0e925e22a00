"""Scores are what the model's attention computed, seen while it ran, and never computed again."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from engines_support import PROMPT, load

from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.stages.vocabulary import Site

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
softmax = torch.nn.functional.softmax

QUERY, KEY = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 6, 8)
MASK = torch.zeros(2, 1, 4, 9)
PLAN = Plan(stages=("attn_scores", "attn_softmax"))


def added(scores, mask):
    return softmax(scores + mask[..., : scores.shape[-1]], dim=-1)


def added_to_the_mask(scores, mask):
    return torch.softmax(torch.add(mask[..., : scores.shape[-1]], scores), -1)


def added_twice(scores, mask):
    mask = mask[..., : scores.shape[-1]]
    return softmax((scores + mask) + mask, dim=-1)


def added_in_place(scores, mask):
    scores += mask[..., : scores.shape[-1]]
    return scores.softmax(-1)


def put_where_the_mask_is(scores, mask):
    is_hidden = mask[..., : scores.shape[-1]] < 0
    return softmax(torch.where(is_hidden, -math.inf, scores), -1)


def beside_a_sink(scores, mask):
    masked = scores + mask[..., : scores.shape[-1]]
    sink = torch.zeros(*scores.shape[:-1], 1)
    return softmax(torch.cat([masked, sink], dim=-1), dim=-1)


def without_a_mask(scores, _mask):
    return softmax(scores, dim=-1, dtype=torch.float32)


def by_name(scores, _mask):
    return softmax(input=scores, dim=-1)


def seen_of(finish, mask):
    from pytest_falsify.engines.scores import seen_scores

    plain = finish((QUERY @ KEY.transpose(-1, -2)) * 0.5, mask)
    seen = []
    with seen_scores(QUERY, KEY, mask, lambda scores: seen.append(scores.clone())) as given:
        weights = finish((QUERY @ KEY.transpose(-1, -2)) * 0.5, given)
    assert type(weights) is torch.Tensor
    assert torch.equal(weights, plain)
    return seen


@pytest.mark.parametrize(
    "finish", [added, added_to_the_mask, added_twice, added_in_place, beside_a_sink]
)
def test_scores_are_what_the_mask_is_added_to(finish):
    mask = torch.full_like(MASK, -1.0)

    (scores,) = seen_of(finish, mask)

    assert torch.equal(scores, (QUERY @ KEY.transpose(-1, -2)) * 0.5)


@pytest.mark.parametrize("finish", [without_a_mask, by_name])
def test_where_there_is_no_mask_they_are_what_softmax_is_given(finish):
    (scores,) = seen_of(finish, None)

    assert torch.equal(scores, (QUERY @ KEY.transpose(-1, -2)) * 0.5)


def test_what_cannot_be_told_apart_from_masked_scores_is_not_shown():
    assert seen_of(without_a_mask, MASK) == []
    assert seen_of(put_where_the_mask_is, MASK) == []


def beside_a_bias(scores, mask):
    return softmax(scores + (mask[..., : scores.shape[-1]] + torch.ones(1, 3, 1, 6)), dim=-1)


def after_another_softmax(scores, _mask):
    softmax(torch.ones(2, 3, 4, 5), dim=-1)
    return softmax(scores, dim=-1)


def test_what_has_another_shape_is_not_taken_for_scores():
    assert seen_of(beside_a_bias, MASK) == []

    (scores,) = seen_of(after_another_softmax, None)

    assert torch.equal(scores, (QUERY @ KEY.transpose(-1, -2)) * 0.5)


def test_a_mask_of_the_scores_own_shape_is_not_taken_for_them():
    mask = torch.full((2, 3, 4, 6), -1.0)

    (scores,) = seen_of(added_to_the_mask, mask)

    assert torch.equal(scores, (QUERY @ KEY.transpose(-1, -2)) * 0.5)


def attending_as(change, monkeypatch, session):
    """Let the model's own eager attention do something else."""
    module = sys.modules[type(session.model.model.layers[0].self_attn).__module__]
    usual = module.eager_attention_forward

    def changed(attention, query, key, value, mask, **options):
        return change(usual, attention, query, key, value, mask, **options)

    monkeypatch.setattr(module, "eager_attention_forward", changed)


def test_an_attention_that_scales_otherwise_is_seen_at_its_scores(qwen2_tiny, monkeypatch):
    session = load("transformers", qwen2_tiny)
    plain = record(session, PROMPT, Plan(stages=PLAN.stages, layers=(0,)))

    def scaled(usual, attention, query, *given, scaling, **options):
        return usual(attention, query, *given, scaling=2 * scaling, **options)

    attending_as(scaled, monkeypatch, session)
    changed = record(session, PROMPT, Plan(stages=PLAN.stages, layers=(0,)))

    site = Site(0, 0, "attn_scores")
    np.testing.assert_array_equal(changed.tensors[site].array, 2 * plain.tensors[site].array)


def test_scores_that_were_never_seen_are_missing_and_not_made_up(qwen2_tiny, monkeypatch):
    session = load("transformers", qwen2_tiny)

    def fused(_usual, attention, query, key, value, mask, *, scaling, **_options):
        found = torch.nn.functional.scaled_dot_product_attention(
            query, key.repeat_interleave(attention.num_key_value_groups, 1),
            value.repeat_interleave(attention.num_key_value_groups, 1),
            attn_mask=mask, scale=scaling,
        )  # fmt: skip
        return found.transpose(1, 2).contiguous(), None

    attending_as(fused, monkeypatch, session)
    capture = record(session, PROMPT, Plan(stages=("attn_scores", "attention")))

    assert {each.stage for each in capture.missing} == {"attn_scores"}
    assert {each.stage for each in capture.tensors} == {"attention"}


@pytest.mark.parametrize("stages", [("attn_scores",), ("q_post_rope", "attn_scores")])
def test_a_run_that_needs_no_more_than_scores_ends_there_and_leaves_the_model_whole(
    qwen2_tiny, stages
):
    session = load("transformers", qwen2_tiny)
    usual = record(session, PROMPT, PLAN)

    plan = Plan(stages=stages, layers=(0,), needs_answer=False)
    ended = record(session, PROMPT, plan)
    again = record(session, PROMPT, PLAN)

    site = Site(0, 0, "attn_scores")
    assert ended.logits == ()
    assert {each.stage for each in ended.tensors} == set(stages)
    np.testing.assert_array_equal(ended.tensors[site].array, usual.tensors[site].array)
    assert again.logits[0].tobytes() == usual.logits[0].tobytes()
