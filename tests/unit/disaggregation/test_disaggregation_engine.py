"""Two workers and a transfer give the answer of one run, and say where they are not the same."""

from __future__ import annotations

import os

import numpy as np
import pytest
from disaggregation_support import CACHES, FAMILIES, open_session, prompt, watching

from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.disaggregation import process
from pytest_falsify.engines.registry import engine
from pytest_falsify.errors import CaptureError, ContractError
from pytest_falsify.stages.vocabulary import TRANSFER, Site

torch = pytest.importorskip("torch")

from pytest_falsify.disaggregation.resumed import Resumed  # noqa: E402

HERE = "test_disaggregation_engine"
STAGES = ("attn_norm", "attn_out", *CACHES, "lm_head")


def split(folder, **options):
    return open_session("disaggregated", folder, **options)


def whole(folder, **options):
    return open_session("transformers", folder, **options)


def halved_scale(tensors):
    return {
        name: each / 2 if name.startswith("1.k.") and ".values." in name else each
        for name, each in tensors.items()
    }


def failing(model):
    def hook(*_):
        msg = "on purpose"
        raise RuntimeError(msg)

    model.register_forward_pre_hook(hook)


def louder(model):
    model.lm_head.weight.data *= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_codec_the_answer_has_the_bits_of_one_run(families, family):
    alone = record(whole(families[family]), prompt(), Plan(stages=STAGES, decode_steps=3))
    apart = record(split(families[family]), prompt(), watching(*STAGES, steps=3))

    assert apart.missing == ()
    assert apart.continuation == alone.continuation
    for mine, theirs in zip(apart.logits, alone.logits, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for layer in range(3):
        for stage in CACHES:
            seen = alone.tensors[Site(1, layer, stage)]
            for step in (0, TRANSFER):
                mine = apart.tensors[Site(step, layer, stage)]
                assert mine.positions == seen.positions[:-1]
                np.testing.assert_array_equal(mine.array, seen.array[:-1])


@pytest.mark.parametrize(
    "options",
    [
        {"transfer": {"by": "socket", "streamed": True}},
        {"transfer": {"block": 4, "order": "reversed", "ranks": {"from": 2, "to": 4}}},
        {"prefill": {"chunk": 3}},
        {"prefill": {"cache": {"kind": "static"}}, "decode": {"cache": {"kind": "static"}}},
    ],
    ids=["socket, streamed", "blocks and ranks", "chunks", "static caches"],
)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_how_a_cache_travels_and_is_kept_is_rounding_at_most(families, family, options):
    alone = record(whole(families[family]), prompt(), Plan(decode_steps=3))
    apart = record(split(families[family], **options), prompt(), watching(*STAGES, steps=3))

    assert apart.missing == ()
    assert apart.continuation == alone.continuation
    for mine, theirs in zip(apart.logits, alone.logits, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_looking_changes_nothing(families):
    session = split(families["llama"], transfer={"codec": "int8"})
    seen = record(session, prompt(), watching(*STAGES))
    unseen = record(session, prompt(), Plan(decode_steps=2))
    for mine, theirs in zip(seen.logits, unseen.logits, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_decode_runs_in_another_process(families):
    record(split(families["llama"]), prompt(), watching())
    assert process.remote().pid != os.getpid()


def test_forced_tokens_are_what_decode_is_fed(families):
    forced = (5, 6, 7)
    alone = record(whole(families["llama"]), prompt(forced=forced), Plan(decode_steps=3))
    apart = record(split(families["llama"]), prompt(forced=forced), Plan(decode_steps=3))
    for mine, theirs in zip(apart.logits, alone.logits, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_users_own_transfer_is_what_arrives(families):
    session = split(families["llama"], transfer={"through": f"{HERE}:halved_scale"})
    seen = record(session, prompt(), watching())
    for layer in range(3):
        sent, arrived = (seen.tensors[Site(step, layer, "k_cache")].array for step in (0, TRANSFER))
        np.testing.assert_array_equal(arrived, sent / 2 if layer == 1 else sent)


def test_a_worker_is_set_up_by_the_user_and_the_identity_knows_it(families):
    plain, set_up = (
        split(families["llama"], **options)
        for options in ({}, {"decode": {"setup": f"{HERE}:louder"}})
    )
    alone, apart = (record(each, prompt(), Plan(decode_steps=1)) for each in (plain, set_up))
    np.testing.assert_array_equal(apart.logits[0], alone.logits[0])
    np.testing.assert_allclose(apart.logits[1], 2 * alone.logits[1], rtol=1e-6)
    assert set_up.identity().digest != plain.identity().digest
    assert "sources" in set_up.identity().settings


def test_a_mistake_in_the_other_process_is_told_here_and_the_next_run_works(families):
    folder = families["llama"]
    with pytest.raises(ContractError, match="nothing_there"):
        split(folder, decode={"setup": f"{HERE}:nothing_there"})
    with pytest.raises(CaptureError, match="the decode worker failed: RuntimeError: on purpose"):
        record(split(folder, decode={"setup": f"{HERE}:failing"}), prompt(), watching())
    assert record(split(folder), prompt(), watching()).missing == ()


def test_a_process_that_is_killed_is_told_and_another_one_is_started(families):
    session = split(families["llama"])
    os.kill(process.remote().pid, 9)
    with pytest.raises(CaptureError, match="process ended with -9"):
        record(session, prompt(), watching())
    assert record(split(families["llama"]), prompt(), watching()).missing == ()


def test_stages_that_grow_with_every_chunk_are_refused(families):
    session = split(families["llama"], prefill={"chunk": 4})
    with pytest.raises(CaptureError, match="cannot be shown of a prefill in chunks"):
        record(session, prompt(), watching("attn_softmax"))


def test_a_run_that_resumes_tells_what_its_model_has(qwen2_tiny):
    target = Target(name="here", model=str(qwen2_tiny), line=1)
    spec = CaptureSpec(name="mine", engine="transformers", line=1)
    session = engine("transformers").load(target, spec, root=qwen2_tiny, device="cpu")
    resumed = Resumed(session=session, after=None)

    assert resumed.has(Site(1, 0, "attn_out"))
    assert not resumed.has(Site(1, 0, "moe_router"))
