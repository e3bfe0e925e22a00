"""A tokenizer is loaded once for many texts, and anew when one of its files has changed."""

from __future__ import annotations

import json
import shutil

import pytest

from pytest_falsify.engines.tokenizer import _tokenizer, encode

pytest.importorskip("transformers")


def test_many_texts_load_one_tokenizer(qwen2_tiny):
    _tokenizer.cache_clear()
    assert encode(qwen2_tiny, "The function") != encode(qwen2_tiny, "returns")
    assert _tokenizer.cache_info().misses == 1


def test_a_tokenizer_whose_file_changed_is_another_one(qwen2_tiny, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copyfile(qwen2_tiny / name, tmp_path / name)
    before = encode(tmp_path, "The function returns")
    path = tmp_path / "tokenizer.json"
    body = json.loads(path.read_text(encoding="utf-8"))
    body["model"]["merges"] = []
    path.write_text(json.dumps(body), encoding="utf-8")
    assert len(encode(tmp_path, "The function returns")) > len(before)
