"""GGUF files as models of transformers: nothing is lost on the way but what quantising took."""

from __future__ import annotations

import json

import numpy as np
import pytest
from engines_support import PROMPT, load
from gguf_support import make_llama, write_gguf
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.captures.tensor_file import write_tensors
from pytest_falsify.engines import gguf_file, gguf_folder
from pytest_falsify.engines.gguf_file import GGUFFile, copy_as_float32, is_gguf
from pytest_falsify.engines.gguf_folder import dequantised_folder, float32_file, models_folder
from pytest_falsify.engines.gguf_model import half_split, interleaved
from pytest_falsify.engines.tokenizer import encode
from pytest_falsify.errors import Blocked, CaptureError

gguf = pytest.importorskip("gguf")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def file(qwen2_tiny, tmp_path):
    return write_gguf(qwen2_tiny, tmp_path / "model.gguf")


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_float32_weights_come_back_in_every_bit_and_under_their_own_names(
    family, qwen2_tiny, llama, tmp_path
):
    source = qwen2_tiny if family == "qwen2" else llama
    path = write_gguf(source, tmp_path / "model.gguf")

    folder = dequantised_folder(path, tmp_path)

    expected = load_file(source / "model.safetensors")
    found = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_the_folder_gives_the_answer_of_the_model_that_the_file_was_made_of(llama, tmp_path):
    path = write_gguf(llama, tmp_path / "model.gguf")

    made = record(load("transformers", path, root=tmp_path), PROMPT_OF_256, Plan())
    original = record(load("transformers", llama), PROMPT_OF_256, Plan())

    np.testing.assert_array_equal(made.logits[0], original.logits[0])


PROMPT_OF_256 = type(PROMPT)(name="short", tokens=(3, 141, 59, 26, 53, 8))


def test_a_file_without_the_permutation_is_another_model(llama, tmp_path):
    path = write_gguf(llama, tmp_path / "model.gguf", permutes=False)

    made = load_file(dequantised_folder(path, tmp_path) / "model.safetensors")
    original = load_file(llama / "model.safetensors")

    name = "model.layers.0.self_attn.q_proj.weight"
    assert np.sort(made[name].ravel()).tobytes() == np.sort(original[name].ravel()).tobytes()
    assert not np.array_equal(made[name], original[name])


def test_quantised_weights_are_what_the_gguf_package_makes_of_them(qwen2_tiny, tmp_path):
    kind = gguf.GGMLQuantizationType.Q8_0
    path = write_gguf(qwen2_tiny, tmp_path / "model.gguf", quantised=kind)

    made = load_file(dequantised_folder(path, tmp_path) / "model.safetensors")

    name = "model.layers.0.mlp.up_proj.weight"
    original = load_file(qwen2_tiny / "model.safetensors")[name]
    expected = gguf.quants.dequantize(gguf.quants.quantize(original, kind), kind)
    np.testing.assert_array_equal(made[name], expected)
    assert 0 < np.abs(made[name] - original).max() < 0.01


def test_the_tokenizer_of_a_file_makes_the_same_tokens(qwen2_tiny, file, tmp_path):
    folder = dequantised_folder(file, tmp_path)

    for text in ("What is 2+2?", "naïve  café\n\t<|endoftext|> end", "x" * 70):
        assert encode(folder, text) == encode(qwen2_tiny, text)


def test_it_is_made_once_and_then_loaded(file, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        gguf_folder, "write_tensors", lambda *each: written.append(write_tensors(*each))
    )

    folder = dequantised_folder(file, tmp_path)
    again = dequantised_folder(file, tmp_path)
    load("transformers", file, root=tmp_path)

    assert again == folder
    assert folder.parent == models_folder(tmp_path)
    assert len(written) == 1


def test_another_content_is_another_folder(file, tmp_path):
    before = dequantised_folder(file, tmp_path)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))

    assert dequantised_folder(file, tmp_path) != before


def test_the_float32_copy_says_what_the_file_says(qwen2_tiny, tmp_path):
    kind = gguf.GGMLQuantizationType.Q4_0
    path = write_gguf(qwen2_tiny, tmp_path / "model.gguf", quantised=kind)

    source, copy = GGUFFile.open(path), GGUFFile.open(float32_file(path, tmp_path))

    assert list(copy.metadata) == list(source.metadata)
    assert all(copy.value(key) == source.value(key) for key in source.metadata)
    assert {each.tensor_type.name for each in copy.reader.tensors} == {"F32"}
    for (name, mine), (other, theirs) in zip(copy.tensors(), source.tensors(), strict=True):
        assert name == other
        np.testing.assert_array_equal(mine, theirs)


def test_a_copy_can_be_changed_on_the_way(file, tmp_path):
    key = "qwen2.rope.freq_base"
    copy_as_float32(
        GGUFFile.open(file),
        tmp_path / "copy.gguf",
        change=lambda name, values: values * 2 if name == "output_norm.weight" else values,
        metadata={key: 500.0},
    )

    copy = GGUFFile.open(tmp_path / "copy.gguf")
    assert copy.value(key) == 500.0
    before, after = (dict(each.tensors()) for each in (GGUFFile.open(file), copy))
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == ["output_norm.weight"]


@pytest.mark.parametrize("keeps", [3, 40, 5_000, -100])
def test_a_truncated_file_is_refused_with_its_size(file, tmp_path, keeps):
    data = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[:keeps])

    with pytest.raises(CaptureError, match="no whole GGUF file") as caught:
        dequantised_folder(tmp_path / "cut.gguf", tmp_path)

    assert str(len(data[:keeps])) in str(caught.value)
    assert not (models_folder(tmp_path) / "cut").exists()


def test_what_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04" + bytes(100))

    assert is_gguf(tmp_path / "model.gguf")
    with pytest.raises(CaptureError, match="no whole GGUF file"):
        GGUFFile.open(tmp_path / "model.gguf")


def test_an_unknown_architecture_is_refused_and_the_known_ones_are_named(file, tmp_path):
    data = file.read_bytes().replace(b"qwen2", b"qwenX")
    (tmp_path / "other.gguf").write_bytes(data)

    with pytest.raises(CaptureError, match="architecture `qwenX` is not known") as caught:
        dequantised_folder(tmp_path / "other.gguf", tmp_path)

    assert "llama, qwen2" in str(caught.value)


def test_without_the_package_it_is_blocked_with_the_command(file, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_file, "find_spec", lambda _: None)

    with pytest.raises(Blocked) as caught:
        dequantised_folder(file, tmp_path)

    assert caught.value.remedy == "pip install 'pytest-falsify[gguf]'"


@given(heads=st.integers(1, 6), half=st.integers(1, 5), width=st.integers(1, 4))
def test_the_two_orders_of_q_and_k_are_each_others_inverse(heads, half, width):
    rows = np.arange(heads * half * 2 * width).reshape(heads * half * 2, width)

    np.testing.assert_array_equal(half_split(interleaved(rows, heads), heads), rows)
    np.testing.assert_array_equal(interleaved(half_split(rows, heads), heads), rows)
    if half > 1:
        assert not np.array_equal(interleaved(rows, heads), rows)


def test_the_configuration_is_the_one_it_was_made_of(qwen2_tiny, file, tmp_path):
    made = json.loads((dequantised_folder(file, tmp_path) / "config.json").read_text())
    original = json.loads((qwen2_tiny / "config.json").read_text())

    for key in ("hidden_size", "intermediate_size", "num_key_value_heads", "vocab_size"):
        assert made[key] == original[key]
    assert made["rope_theta"] == original["rope_parameters"]["rope_theta"]
    assert made["rms_norm_eps"] == pytest.approx(original["rms_norm_eps"], rel=1e-6)
    assert made["tie_word_embeddings"] is True
