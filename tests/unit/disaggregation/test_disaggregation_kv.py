"""A fault in the cache is found, and blamed on the leg that made it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from broken_workers import FAULTS, with_fault
from disaggregation_support import Bench

from pytest_falsify.checks.registry import check
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.errors import AlignmentError
from pytest_falsify.stages.vocabulary import TRANSFER, Site

pytest.importorskip("transformers")
HERE = "broken_workers"
LIMIT = {"worst_row": {"max": 1e-3}}
CODECS = [{}, {"codec": "int8"}, {"codec": "fp8", "per": "channel"}]
NAMES = ["identity", "int8 a head", "fp8 a channel"]


def judge(bench, subject, **parameters):
    return bench.judge("kv", subject, **({"expect": LIMIT} | parameters))


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_an_honest_transfer_holds_and_its_planted_faults_are_caught(bench, codec):
    verdict = judge(bench, {"transfer": codec})

    assert verdict.outcome.value == "held"
    assert verdict.observed["leg"] == "none"
    assert verdict.faults["caught"] == verdict.faults["planted"] > 0
    assert verdict.faults["smallest_caught"] < 0.01


@pytest.mark.parametrize("fault", FAULTS)
def test_the_leg_of_a_fault_is_named(bench, fault):
    leg, options = FAULTS[fault]
    verdict = judge(bench, with_fault({"transfer": {"codec": "int8"}}, options))

    assert verdict.outcome.value == "refuted"
    assert verdict.observed["leg"] == leg
    assert verdict.observed["guilty"] == [leg]


@pytest.mark.parametrize("fault", ["dropped block", "stale block"])
def test_in_a_window_too(families, fault):
    leg, options = FAULTS[fault]
    verdict = judge(Bench(folder=families["mistral"]), with_fault({}, options))
    assert verdict.observed["leg"] == leg


def test_the_place_is_named_by_layer_head_and_position(bench):
    _, options = FAULTS["dropped block"]
    (reason,) = judge(bench, with_fault({}, options)).reasons
    assert "transfer/1/k_cache: head 0, position 2" in reason
    assert "(32 values are beyond)" in reason  # 2 heads x 2 tokens x 8 channels


def test_noise_may_take_the_place_of_limits(bench):
    subject = {"attention": "sdpa", "transfer": {"codec": "fp8"}}
    verdict = judge(bench, subject, expect=None, noise={"control": "control"})
    assert verdict.outcome.value == "held"
    assert verdict.observed["calibration"] == "measured"

    leg, options = FAULTS["decode mask off by one"]
    verdict = judge(bench, with_fault(subject, options), expect=None, noise={"control": "control"})
    assert verdict.observed["leg"] == leg


def test_a_nan_from_the_prefill_is_the_prefills_alone(bench):
    verdict = judge(bench, {"prefill": {"setup": f"{HERE}:poisoned_model"}})
    assert verdict.outcome.value == "refuted"
    assert verdict.observed["guilty"] == ["prefill"]


@pytest.fixture(scope="module")
def held(bench):
    """The claim and the captures of an honest transfer."""
    claim = bench.claim("kv", {}, expect=LIMIT)
    return claim, bench.captures(claim)


def judged(claim, captures):
    return check("kv").judge(claim, captures, compare_captures)


def changed(captures, role, **changes):
    return {
        request: replace(each, **changes) if request.role == role else each
        for request, each in captures.items()
    }


def test_a_nan_on_arrival_is_the_transfers(held):
    claim, captures = held
    (subject,) = (each for request, each in captures.items() if request.role == "subject")
    site = Site(TRANSFER, 0, "v_cache")
    array = np.array(subject.tensors[site].array)
    array[3, 1, 2] = np.nan
    tensors = {**subject.tensors, site: replace(subject.tensors[site], array=array)}
    verdict = judged(claim, changed(captures, "subject", tensors=tensors))
    assert verdict.outcome.value == "refuted"
    assert verdict.observed["leg"] == "transfer"


def test_decode_must_leave_alone_what_arrived(held):
    claim, captures = held
    (subject,) = (each for request, each in captures.items() if request.role == "subject")
    site = Site(3, 0, "k_cache")
    array = np.array(subject.tensors[site].array)
    array[2] += 1
    tensors = {**subject.tensors, site: replace(subject.tensors[site], array=array)}
    verdict = judged(claim, changed(captures, "subject", tensors=tensors))
    assert verdict.observed["leg"] == "decode"
    assert "3/0/k_cache: it changed what had arrived" in verdict.reasons[0]


def test_nothing_compared_is_never_a_pass(held):
    claim, captures = held
    for role in ("subject", "oracle", "replay"):
        assert judged(claim, changed(captures, role, tensors={})).outcome.value != "held"
    assert judged(claim, {}).outcome.value == "inconclusive"


def test_an_arrival_that_was_not_shown_is_never_a_pass(held):
    claim, captures = held
    (subject,) = (each for request, each in captures.items() if request.role == "subject")
    tensors = {site: each for site, each in subject.tensors.items() if site.step != TRANSFER}
    verdict = judged(claim, changed(captures, "subject", tensors=tensors))
    assert verdict.outcome.value == "inconclusive"


def test_another_population_is_refused(held):
    claim, captures = held
    (subject,) = (each for request, each in captures.items() if request.role == "subject")
    site = Site(0, 0, "k_cache")
    shifted = replace(subject.tensors[site], positions=tuple(range(1, 22)))
    with pytest.raises(AlignmentError, match="the tokens differ"):
        judged(claim, changed(captures, "subject", tensors={**subject.tensors, site: shifted}))
