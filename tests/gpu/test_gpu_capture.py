"""On a CUDA device: the same plan, the same manifest, no waiting for a tensor, and no disturbance.

Skipped where there is none: ``make gpu`` on a machine that has one.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from pytest_falsify.captures.bundle import write_bundle
from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.manifest import MANIFEST
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.captures.sketch import sketched
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines.device import resolve_device
from pytest_falsify.engines.handout import HandOut
from pytest_falsify.engines.registry import engine
from pytest_falsify.errors import Blocked

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
PROMPT = TokenInputs(name="p", tokens=(17, 260, 33, 900, 4, 71, 812, 5))


def load(folder, device="cuda", **options):
    target = Target(name="t", model=str(folder), line=1, device=device)
    spec = CaptureSpec(name="c", engine="transformers", line=1, options=options)
    return engine("transformers").load(target, spec, root=folder, device=resolve_device(target))


def all_of(session, **more):
    return Plan(stages=(*session.stages, *session.on_request), **more)


def test_the_same_plan_gives_the_same_manifest_on_both_devices(qwen2_tiny, tmp_path):
    described = []
    for device in ("cpu", "cuda"):
        session = load(qwen2_tiny, device)
        plan = all_of(session, decode_steps=2, positions=(0, -1))
        write_bundle(record(session, PROMPT, plan), tmp_path / device)
        body = json.loads((tmp_path / device / MANIFEST).read_text())
        for each in (*body["tensors"], *body["logits"]):
            del each["sha256"]
        del body["digest"]
        del body["identity"]
        described.append(body)

    assert described[0] == described[1]


def test_the_numbers_are_those_of_the_cpu_within_rounding(qwen2_tiny):
    cpu, cuda = (load(qwen2_tiny, device) for device in ("cpu", "cuda"))

    comparison = compare_captures(*(record(each, PROMPT, all_of(each)) for each in (cuda, cpu)))

    assert max(each.total.rel_l2 for each in comparison.sites) < 1e-3
    assert comparison.missing == ()


def test_sketches_are_made_on_the_device_and_are_those_of_the_tensors(qwen2_tiny):
    session = load(qwen2_tiny)
    plan = all_of(session, decode_steps=2)

    whole = record(session, PROMPT, plan)
    sketches = record(session, PROMPT, plan, is_sketch=True)

    for site, tensor in whole.tensors.items():
        expected, found = sketched(site, tensor), sketches.tensors[site]
        assert (found.sketch, found.dims) == (expected.sketch, expected.dims)
        scale = np.abs(expected.array).max()
        np.testing.assert_allclose(found.array, expected.array, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_looking_does_not_change_what_is_seen_on_cuda(qwen2_tiny, attention, dtype):
    session = load(qwen2_tiny, attention=attention, dtype=dtype)

    looked = record(session, PROMPT, all_of(session, decode_steps=3))
    bare = record(session, PROMPT, Plan(decode_steps=3))

    for one, other in zip(looked.logits, bare.logits, strict=True):
        assert one.tobytes() == other.tobytes()


def test_no_tensor_is_waited_for_while_the_model_runs(qwen2_tiny, monkeypatch):
    session = load(qwen2_tiny)
    usual, shown = HandOut.show, []

    def show(self, *arguments):
        torch.cuda.set_sync_debug_mode("error")
        try:
            usual(self, *arguments)
            shown.append(1)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(HandOut, "show", show)

    record(session, PROMPT, all_of(session, positions=(0, 3, -1)))

    assert len(shown) > 50


def test_what_was_handed_out_is_what_the_device_held(qwen2_tiny):
    """The copies run aside: none may begin before the tensor is there or end after it is used."""
    session = load(qwen2_tiny)
    plan = all_of(session, decode_steps=1)
    first = record(session, PROMPT, plan)

    for _ in range(20):
        again = record(session, PROMPT, plan)
        for site, each in first.tensors.items():
            assert again.tensors[site].array.tobytes() == each.array.tobytes(), site


def test_a_device_with_too_little_memory_blocks_before_anything_is_loaded(qwen2_tiny):
    target = Target(name="t", model=str(qwen2_tiny), line=1, device="cuda", memory="4096TiB")

    with pytest.raises(Blocked, match="needs 4096TiB on cuda:0"):
        resolve_device(target)
