"""Faults that only a decode step shows are found there, and named over all the steps they spoil."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from localize_support import CONTRACT, INPUTS, shown, site

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import CACHES, Plan
from pytest_falsify.captures.record import record
from pytest_falsify.cli.claims import claim_named
from pytest_falsify.cli.localizing import _judged
from pytest_falsify.errors import ContractError
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.localize.chain import build, fed_alike
from pytest_falsify.localize.naming import name_fault

STEPS = 9
SINCE = 3
FORCED = TokenInputs(name="forced", tokens=INPUTS.tokens, forced=tuple(range(5, 5 + STEPS)))


def decoded(lab, dtype, *, inputs=FORCED, hook=None):
    """Return ten tokens of a model into which something was hooked, caches included."""
    session = lab.session(dtype=dtype, attention="eager")
    with ExitStack() as stack:
        if hook is not None:
            session = replace(session, model=copy.deepcopy(session.model))
            stack.callback(hook(session.model).remove)
        plan = Plan(stages=(*shown(session), *CACHES), decode_steps=STEPS)
        return record(session, inputs, plan)


def late_positions(model):
    """Turn every decoded token as the one after it."""

    def moved(_module, given):
        return (given[0], given[1] + (given[1].shape[1] == 1))

    return model.model.rotary_emb.register_forward_pre_hook(moved)


def itself_unseen(model):
    """Let no decoded token of layer 1 attend to itself."""

    def masked(_module, given, named):
        if named["hidden_states"].shape[1] == 1:
            mask = named["attention_mask"].clone()
            mask[..., -1] = torch.finfo(mask.dtype).min
            named = {**named, "attention_mask": mask}
        return given, named

    return model.model.layers[1].self_attn.register_forward_pre_hook(masked, with_kwargs=True)


def cache_shifted(model):
    """Shift what layer 0 has cached by one, once, before the third decode step reads it."""
    steps = iter(range(-1, STEPS))

    def shifted(_module, given, named):
        if next(steps) == SINCE - 1:
            cached = named["past_key_values"].layers[0]
            cached.keys = cached.keys.roll(1, 2)
        return given, named

    return model.model.layers[0].self_attn.register_forward_pre_hook(shifted, with_kwargs=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_honest_decode_steps_are_not_accused(lab, dtype):
    chain = build(lab.evaluator(dtype), decoded(lab, dtype))
    assert (chain.guilty, chain.undecided) == ((), ())
    assert {"k_cache", "attn_softmax"} <= {each.site.stage for each in chain.links}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_positions_off_by_one_in_decode_are_found_and_named(lab, dtype):
    subject = decoded(lab, dtype, hook=late_positions)
    chain = build(lab.evaluator(dtype), subject)
    turned = [(layer, stage) for layer in (0, 1) for stage in ("q_post_rope", "k_post_rope")]
    assert turned == [(each.site.layer, each.site.stage) for each in chain.guilty]
    assert all(each.site.step > 0 for each in chain.guilty)
    named = name_fault(lab.evaluator(dtype), subject, chain.guilty[0].site)
    assert (named.fault, named.detail) == ("rope position", "positions +1")
    assert named.own.steps == STEPS


def test_a_mask_off_by_one_in_decode_is_found_and_named(lab):
    subject = decoded(lab, "float32", hook=itself_unseen)
    (link,) = build(lab.evaluator(), subject).guilty
    assert (link.site.layer, link.site.stage) == (1, "attn_softmax")
    named = name_fault(lab.evaluator(), subject, link.site)
    assert (named.fault, named.detail) == ("mask", "the token itself left out")


def test_a_cache_off_by_one_is_found_at_the_step_that_reads_it(lab):
    subject = decoded(lab, "float32", hook=cache_shifted)
    (link,) = build(lab.evaluator(), subject).guilty
    assert site(f"{SINCE}/0/k_cache") == link.site
    assert name_fault(lab.evaluator(), subject, link.site).detail == "the past +1"


def test_a_fault_that_begins_later_is_named_from_that_step_on(lab):
    subject = decoded(lab, "float32")
    tensors = {**subject.tensors}
    heads = [each for each in tensors if each.stage == "q_post_rope" and each.layer == 0]
    for each in heads:
        if each.step >= SINCE:
            tensors[each] = replace(tensors[each], array=tensors[each].array[:, ::-1])
    subject = replace(subject, tensors=tensors)
    (link,) = [each for each in build(lab.evaluator(), subject).guilty if each.site in heads]
    named = name_fault(lab.evaluator(), subject, link.site)
    assert named.detail == f"reversed, from step {SINCE} on"


def test_what_was_fed_another_token_is_not_compared_from_there_on(lab):
    oracle = decoded(lab, "float32", inputs=INPUTS)
    other = (*oracle.continuation[:4], oracle.continuation[4] + 1, *oracle.continuation[5:])
    subject = replace(oracle, continuation=other)
    assert {*range(5)} == {each.step for each in fed_alike(oracle, subject).tensors}
    links = build(lab.evaluator(), subject, oracle=oracle).links
    assert any(each.site.step > 4 for each in links)
    assert all((each.total is None) == (each.site.step > 4) for each in links)


@pytest.fixture
def judged(lab, tmp_path):
    def judge(check):
        path, tokens = tmp_path / "c.yaml", list(INPUTS.tokens)
        path.write_text(CONTRACT.format(model=lab.folder, tokens=tokens, check=check))
        return _judged(claim_named(f"{path}::FALSIFY-SMALL-001"), may_run_commands=False)

    return judge


FEW = "stages: [attn_norm, qkv_bias, q_post_rope], layers: [1]"
CHECK = f"kind: localize, noise: {{control: control}}, {FEW}, expect: {{guilty: none}}, "


def test_decode_steps_are_looked_at_where_a_contract_says_so(judged):
    found = judged(CHECK + f"subject: honest, decode_steps: {STEPS}")
    (chain,) = found.chains.values()
    assert found.outcome is Outcome.HELD
    assert {*range(STEPS + 1)} == {each.step for link in chain.links for each in link.done.steps}
    assert found.faults["caught"] == found.faults["planted"]


def test_a_guilty_decode_step_refutes_and_is_not_grafted(judged):
    found = judged(CHECK + f"subject: faulty, graft: true, decode_steps: {STEPS}")
    assert found.outcome is Outcome.REFUTED
    assert [*found.observed["grafts"]] == ["0/1/q_post_rope"]
    assert any(not each.startswith("0/") for each in found.observed["guilty"])


def test_few_decode_steps_decide_nothing(judged):
    found = judged(CHECK + "subject: honest, decode_steps: 2")
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "too few to tell" in found.reasons[0]


def test_the_budget_is_for_the_prefill(judged):
    with pytest.raises(ContractError, match="prefill alone"):
        judged(CHECK + "subject: honest, decode_steps: 2, budget: true")
