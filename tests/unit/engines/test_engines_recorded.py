"""The recorded engine: a replay is a replay, and says so unless its digests are today's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engines_support import PROMPT, load

from pytest_falsify.captures.aprt import write_aprt
from pytest_falsify.captures.bundle import write_bundle
from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.engines.recorded import is_replay
from pytest_falsify.errors import Blocked, CaptureError, ContractError

pytest.importorskip("torch")
pytest.importorskip("transformers")

PLAN = Plan(stages=("embedding", "attn_out", "lm_head"), layers=(0, 2), decode_steps=2)


@pytest.fixture(scope="module")
def live(qwen2_tiny):
    return record(load("transformers", qwen2_tiny), PROMPT, PLAN)


@pytest.fixture
def bundle(live, tmp_path):
    write_bundle(live, tmp_path / "bundle")
    return tmp_path / "bundle"


def recorded(bundle, model):
    return load("recorded", model, bundle=str(bundle))


def test_a_replay_is_the_run_that_was_recorded(bundle, live, qwen2_tiny):
    session = recorded(bundle, qwen2_tiny)

    seen = record(session, PROMPT, PLAN)

    assert session.layer_count == 4
    assert session.stages == ("embedding", "attn_out", "lm_head")
    assert (seen.continuation, seen.missing) == (live.continuation, ())
    for site, tensor in live.tensors.items():
        np.testing.assert_array_equal(seen.tensors[site].array, tensor.array)
    for mine, theirs in zip(seen.logits, live.logits, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_what_was_not_recorded_is_missing_and_not_left_out(bundle, qwen2_tiny):
    seen = record(recorded(bundle, qwen2_tiny), PROMPT, Plan(stages=("attn_out",)))

    assert list(map(str, seen.missing)) == ["0/1/attn_out", "0/3/attn_out"]


def test_its_identity_is_the_live_one_only_while_every_digest_is_todays(
    bundle, live, qwen2_tiny, tmp_path, monkeypatch
):
    from pytest_falsify.engines import recorded as module

    other = replace(live, identity=replace(live.identity, weights="sha256:" + "0" * 64))
    write_bundle(other, tmp_path / "other")

    assert recorded(bundle, qwen2_tiny).identity() == live.identity
    assert is_replay(recorded(tmp_path / "other", qwen2_tiny).identity())
    assert is_replay(recorded(bundle, tmp_path / "gone").identity())
    monkeypatch.setattr(module, "version", lambda _: "0.0")
    assert is_replay(recorded(bundle, qwen2_tiny).identity())


def test_a_program_whose_version_nobody_can_ask_today_is_a_replay(live, qwen2_tiny, tmp_path):
    ran = replace(live.identity, versions={"program": "mine 1"})
    write_bundle(replace(live, identity=ran), tmp_path / "program")

    assert is_replay(recorded(tmp_path / "program", qwen2_tiny).identity())


def test_a_folder_of_bundles_serves_each_input_from_its_own(live, qwen2_tiny, tmp_path):
    second = record(
        load("transformers", qwen2_tiny), TokenInputs(name="two", tokens=(7, 7)), Plan()
    )
    write_bundle(live, tmp_path / "all" / "one")
    write_bundle(second, tmp_path / "all" / "two")

    session = recorded(tmp_path / "all", qwen2_tiny)

    seen = record(session, TokenInputs(name="any name", tokens=(7, 7)), Plan())
    np.testing.assert_array_equal(seen.logits[0], second.logits[0])
    with pytest.raises(CaptureError, match="was not recorded on input `third`"):
        record(session, TokenInputs(name="third", tokens=(7,)), Plan())


def test_an_aprt_tree_with_its_manifest_is_a_recording_too(qwen2_tiny, tmp_path):
    plan = Plan(stages=("attn_out",))
    live = record(load("transformers", qwen2_tiny), PROMPT, plan)
    write_aprt(live, tmp_path / "tree")

    seen = record(recorded(tmp_path / "tree", qwen2_tiny), PROMPT, plan)

    assert seen.tensors.keys() == live.tensors.keys()


def test_more_steps_than_were_recorded_are_refused(bundle, qwen2_tiny):
    with pytest.raises(CaptureError, match="recorded with 2 steps"):
        record(recorded(bundle, qwen2_tiny), PROMPT, replace(PLAN, decode_steps=3))


def test_a_recording_that_is_not_there_is_blocked_and_an_unstated_one_refused(
    live, qwen2_tiny, tmp_path
):
    with pytest.raises(Blocked, match="there is no recording at"):
        recorded(tmp_path / "nowhere", qwen2_tiny)
    with pytest.raises(ContractError, match="does not say what was recorded"):
        load("recorded", qwen2_tiny)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaptureError, match="does not state what the model was fed"):
        recorded(tmp_path / "empty", qwen2_tiny)


def test_bundles_of_different_subjects_are_not_one_recording(live, qwen2_tiny, tmp_path):
    other = replace(live, identity=replace(live.identity, device="cuda"))
    write_bundle(live, tmp_path / "all" / "one")
    write_bundle(other, tmp_path / "all" / "two")

    with pytest.raises(CaptureError, match="of 2 different subjects"):
        recorded(tmp_path / "all", qwen2_tiny)


def test_a_bundle_of_sketches_is_an_oracle_too(qwen2_tiny, tmp_path):
    plan = Plan(stages=("attn_out", "ffn_out"))
    live = load("transformers", qwen2_tiny)
    write_bundle(record(live, PROMPT, plan, is_sketch=True), tmp_path / "sketches")
    subject = record(load("transformers", qwen2_tiny, dtype="bfloat16"), PROMPT, plan)

    oracle = record(recorded(tmp_path / "sketches", qwen2_tiny), PROMPT, plan)

    estimated = compare_captures(subject, oracle).sites
    exact = compare_captures(subject, record(live, PROMPT, plan)).sites
    assert all(each.is_estimate for each in estimated)
    for guess, truth in zip(estimated, exact, strict=True):
        assert guess.total.rel_l2 == pytest.approx(truth.total.rel_l2, rel=0.5)
