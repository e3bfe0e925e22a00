"""The ONNX Runtime engine on a model that torch's exporter makes here: every stage, and law 7."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from engines_support import DECODER, PROMPT, load

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.engines import onnxruntime as module
from pytest_falsify.errors import Blocked, CaptureError

INSTALL = "pip install 'pytest-falsify[hf,onnx]' makes these tests run"


def test_without_the_library_it_is_blocked_with_the_command(monkeypatch, qwen2_tiny):
    monkeypatch.setattr(module, "find_spec", lambda _: None)

    with pytest.raises(Blocked) as caught:
        load("onnxruntime", qwen2_tiny)

    assert caught.value.remedy == "pip install 'pytest-falsify[onnx]'"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder of a contract, beside which exported models are kept."""
    for name in ("onnxruntime", "onnxscript", "transformers"):
        pytest.importorskip(name, reason=INSTALL)
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def session(qwen2_tiny, place):
    return load("onnxruntime", qwen2_tiny, root=place)


def test_every_stage_is_that_of_transformers(session, qwen2_tiny):
    plan = Plan(stages=DECODER, decode_steps=2)

    subject = record(session, PROMPT, plan)
    oracle = record(load("transformers", qwen2_tiny), PROMPT, plan)

    assert subject.missing == ()
    assert set(subject.tensors) == set(oracle.tensors)
    sites = compare_captures(subject, oracle).sites
    assert [str(each.site) for each in sites if each.total.rel_l2 > 1e-5] == []
    assert subject.continuation == oracle.continuation


def test_the_graph_is_not_bound_to_the_length_it_was_traced_with(session, qwen2_tiny):
    long = TokenInputs(name="long", tokens=tuple(range(100)))

    subject, oracle = (
        record(each, long, Plan()) for each in (session, load("transformers", qwen2_tiny))
    )

    np.testing.assert_allclose(subject.logits[0], oracle.logits[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("optimisation", ["all", "none"])
def test_looking_does_not_change_the_answer(qwen2_tiny, place, optimisation):
    session = load("onnxruntime", qwen2_tiny, root=place, optimisation=optimisation)

    looked, bare = (record(session, PROMPT, Plan(stages=each)) for each in (DECODER, ()))

    assert looked.logits[0].tobytes() == bare.logits[0].tobytes()


def test_an_observed_graph_that_is_not_what_answered_is_refused(session, tmp_path):
    other = shutil.copytree(session.file.parent, tmp_path / "other")
    weights = np.fromfile(other / "model.onnx.data", np.float32)
    (weights * np.float32(1.001)).tofile(other / "model.onnx.data")
    observed = replace(session, file=other / "model.onnx", _observing={})

    with pytest.raises(CaptureError, match="the observed graph's logits are"):
        record(observed, PROMPT, Plan(stages=("attn_out",)))
    assert len(record(observed, PROMPT, Plan()).logits) == 1


def test_a_file_is_run_without_the_folder_it_was_made_of(session, tmp_path):
    shutil.copytree(session.file.parent, tmp_path / "given")
    plan = Plan(stages=("attn_out", "lm_head"))

    given = record(load("onnxruntime", tmp_path / "given" / "model.onnx"), PROMPT, plan)
    made = record(session, PROMPT, plan)

    assert given.identity.weights != made.identity.weights
    for site, tensor in made.tensors.items():
        np.testing.assert_array_equal(given.tensors[site].array, tensor.array)


def test_it_is_exported_once(session, qwen2_tiny, place):
    made = session.file.stat()

    again = load("onnxruntime", qwen2_tiny, root=place).file.stat()

    assert (again.st_ino, again.st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


@pytest.mark.parametrize("what", ["graph", "weights"])
def test_a_truncated_file_is_refused(session, tmp_path, what):
    shutil.copytree(session.file.parent, tmp_path / "cut")
    name = "model.onnx" if what == "graph" else "model.onnx.data"
    data = (tmp_path / "cut" / name).read_bytes()
    (tmp_path / "cut" / name).write_bytes(data[: len(data) // 2])

    with pytest.raises(CaptureError, match=r"no whole ONNX file|cannot load this model"):
        load("onnxruntime", tmp_path / "cut" / "model.onnx")


def test_a_graph_that_does_not_name_its_modules_is_refused(place, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, None])
    out = helper.make_tensor_value_info("logits", TensorProto.INT64, [1, None])
    node = helper.make_node("Identity", ["input_ids"], ["logits"])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [ids], [out])), tmp_path / "m.onnx")

    with pytest.raises(CaptureError, match="says which module it was traced in"):
        load("onnxruntime", tmp_path / "m.onnx")
