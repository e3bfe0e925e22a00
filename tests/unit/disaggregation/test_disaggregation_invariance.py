"""What must not matter is tried, and found where it does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from disaggregation_support import Bench

from pytest_falsify.checks.invariance import RELATIONS, RESUMED
from pytest_falsify.checks.registry import check
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.contracts.model import CaptureSpec
from pytest_falsify.errors import ContractError

pytest.importorskip("transformers")
HERE = "broken_workers"
ROUNDING = {"worst_row": {"max": 1e-4}}
EQUAL = {"mismatched": {"max": 0}}
IN_A_WORKER = [name for name, each in RELATIONS.items() if each.option != "batch"]


def judge(bench, relation, subject=None, **parameters):
    return bench.judge(
        "invariance", subject or {}, **({"relation": relation, "expect": ROUNDING} | parameters)
    )


@pytest.mark.parametrize("relation", IN_A_WORKER)
def test_what_must_not_matter_does_not_and_planted_faults_are_caught(bench, relation):
    verdict = judge(bench, relation, chunk=5, block=4)
    assert verdict.outcome.value == "held"
    assert verdict.observed["leg"] == "none"
    assert verdict.faults["caught"] == verdict.faults["planted"] > 0


@pytest.mark.parametrize("relation", ["batch", "padding"])
def test_nor_do_the_others_of_a_batch(bench, relation):
    assert judge(bench, relation, subject="oracle").outcome.value == "held"


@pytest.mark.parametrize("relation", ["canaries", "block-order"])
def test_some_do_not_change_a_bit(bench, relation):
    assert judge(bench, relation, expect=EQUAL, block=4).outcome.value == "held"


@pytest.mark.parametrize("family", ["mistral", "qwen3"])
def test_decoding_goes_on_where_prefill_ended_around_the_borders_of_windows(families, family):
    around = [4, 5, 6, 7, 8, 15, 16, 17, -1]
    verdict = judge(Bench(folder=families[family]), "resumed", at=around, decode_steps=2)
    assert verdict.outcome.value == "held"
    assert len(verdict.judged) == len(around)


@pytest.mark.parametrize(
    ("relation", "leg", "subject"),
    [
        ("chunked", "prefill", {"prefill": {"setup": f"{HERE}:chunk_border"}}),
        ("resumed", "decode", {"decode": {"setup": f"{HERE}:late_positions"}}),
        ("resumed", "decode", {"decode": {"setup": f"{HERE}:blind_to_the_newest"}}),
        ("block-order", "transfer", {"transfer": {"through": f"{HERE}:in_the_order_of_arrival"}}),
    ],
    ids=["chunk border", "late positions", "blind mask", "blocks as they come"],
)
def test_a_worker_to_which_it_matters_is_refuted_and_the_leg_is_named(
    bench, relation, leg, subject
):
    verdict = judge(bench, relation, subject, chunk=5, block=7)
    assert verdict.outcome.value == "refuted"
    assert verdict.reasons[0].startswith(f"{leg}: `{relation}` matters, on ")
    assert verdict.observed["leg"] == leg


def test_a_nan_in_unused_slots_is_found_out(bench):
    verdict = judge(bench, "canaries", poison="nan")
    assert verdict.outcome.value == "refuted"
    assert verdict.observed["leg"] == "decode"


@pytest.mark.parametrize(("place", "leg"), [(0, "prefill"), (-1, "decode")])
def test_where_in_a_batch_it_begins_to_matter_is_told_by_the_token(bench, place, leg):
    claim = bench.claim("invariance", {}, subject="oracle", relation="batch", expect=ROUNDING)
    captures = bench.captures(claim)
    spoilt = {
        request: replace(each, logits=_shifted(each.logits, place)) if request.run else each
        for request, each in captures.items()
    }
    verdict = check("invariance").judge(claim, spoilt, compare_captures)
    assert verdict.outcome.value == "refuted"
    assert verdict.observed["leg"] == leg


def _shifted(logits, place):
    changed = list(logits)
    changed[place] = np.roll(changed[place], 1, axis=-1)
    return tuple(changed)


def test_a_relation_that_the_engine_does_not_have_is_refused(bench):
    with pytest.raises(ContractError, match="engine disaggregated has no `batch`") as caught:
        judge(bench, "batch")
    assert "which relation `batch` changes" in caught.value.what
    assert caught.value.expected == "a subject of engine transformers"
    can = "engine disaggregated can be run by: chunked, canaries, block-order, resumed"
    assert caught.value.remedy.endswith(can)


@pytest.mark.parametrize("relation", [*RELATIONS, RESUMED])
def test_a_server_is_refused_before_it_is_asked_whatever_the_relation(bench, relation):
    claim = bench.claim("invariance", {}, relation=relation, expect=ROUNDING)
    server = CaptureSpec(name="subject", engine="openai", line=4, options={"url": "http://x"})
    captures = {**claim.contract.captures, claim.parameter("subject"): server}
    served = replace(claim, contract=replace(claim.contract, captures=captures))
    with pytest.raises(ContractError, match=f"relation `{relation}` runs") as caught:
        check("invariance").requests(served)
    assert "engine openai asks a server" in caught.value.what
    assert "openai" not in caught.value.expected
    assert "docs/served.md" in caught.value.remedy


def test_nothing_compared_is_never_a_pass(bench):
    claim = bench.claim("invariance", {}, relation="chunked", expect=ROUNDING)
    captures = bench.captures(claim)
    kind = check("invariance")
    assert kind.judge(claim, {}, compare_captures).outcome.value == "inconclusive"
    empty = {
        request: replace(each, logits=tuple(np.array(one)[:0] for one in each.logits))
        for request, each in captures.items()
    }
    assert kind.judge(claim, empty, compare_captures).outcome.value != "held"
