"""The python engine: a function of a conftest or of a package that knows nothing of our inside."""

from __future__ import annotations

import numpy as np
import pytest
from engines_support import PROMPT, load
from safetensors.numpy import load_file

from pytest_falsify import python_engine
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.engines import python as module
from pytest_falsify.errors import Blocked, CaptureError, ContractError
from pytest_falsify.stages.vocabulary import Site


@pytest.fixture(autouse=True)
def _unregistered(monkeypatch):
    monkeypatch.setattr(module, "_REGISTERED", {})


def first_norm(inputs, plan, model):
    """The embedding and the first layer's norm, in NumPy."""
    weights = load_file(model / "model.safetensors")
    hidden = weights["model.embed_tokens.weight"][list(inputs.tokens)]
    scale = 1 / np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-6)
    norm = hidden * scale * weights["model.layers.0.input_layernorm.weight"]
    return {"embedding": hidden, "0/0/attn_norm": norm}


def test_a_function_agrees_with_transformers_where_it_computes_the_same(qwen2_tiny):
    pytest.importorskip("transformers")
    python_engine("norm", version="1", stages=["attn_norm", "embedding"])(first_norm)
    plan = Plan(stages=("embedding", "attn_norm"), layers=(0,))

    mine = record(load("python", qwen2_tiny, call="norm"), PROMPT, plan)
    theirs = record(load("transformers", qwen2_tiny), PROMPT, plan)

    assert list(mine.tensors) == list(theirs.tensors)
    for site, tensor in theirs.tensors.items():
        np.testing.assert_allclose(mine.tensors[site].array, tensor.array, rtol=1e-5, atol=1e-6)
        assert mine.tensors[site].positions == tensor.positions


def chain(step):
    """Return a run whose logits choose the token after the last one, ``step`` further on."""

    def run(inputs, plan):
        logits = np.zeros((len(inputs.tokens), 1536), np.float32)
        logits[range(len(inputs.tokens)), [each + step for each in inputs.tokens]] = 1
        return {"lm_head": logits}

    return run


def test_it_decodes_greedily_by_running_again_over_all_tokens(qwen2_tiny):
    python_engine("chain", version="1", stages=["lm_head"])(chain(2))

    seen = record(
        load("python", qwen2_tiny, call="chain"), PROMPT, Plan(stages=("lm_head",), decode_steps=3)
    )

    assert seen.continuation == (10, 12, 14)
    assert [each.shape for each in seen.logits] == [(6, 1536), (1, 1536), (1, 1536), (1, 1536)]
    assert seen.tensors[Site(3, None, "lm_head")].positions == (8,)


def test_the_identity_follows_the_version_the_source_and_the_weights(qwen2_tiny, tmp_path):
    def identity(version, run=first_norm):
        python_engine("norm", version=version, stages=["embedding"])(run)
        return load("python", qwen2_tiny, call="norm").identity().digest

    source = tmp_path / "other.py"
    source.write_text("def run(inputs, plan): ...\n")
    scope = {}
    exec(compile(source.read_text(), source, "exec"), scope)

    assert len({identity("1"), identity("2"), identity("1", scope["run"])}) == 3
    assert identity("1") == identity("1")


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        ({}, "did not return 1 site that it shows"),
        ({"embeding": np.zeros((6, 128))}, "returned `embeding`, which is no site"),
        ({"embedding": np.zeros((5, 128))}, "0/-/embedding has 640 values"),
        ({"embedding": np.zeros((128, 6))}, "0/-/embedding has 768 values, of the shape"),
    ],
)
def test_what_it_returns_is_held_against_what_it_promised(qwen2_tiny, returned, what):
    python_engine("wrong", version="1", stages=["embedding"])(lambda inputs, plan: returned)

    with pytest.raises(CaptureError, match=what):
        record(load("python", qwen2_tiny, call="wrong"), PROMPT, Plan(stages=("embedding",)))


def test_an_engine_that_is_not_here_is_blocked_and_the_known_ones_are_named(qwen2_tiny):
    python_engine("mine", version="1", stages=["lm_head"])(chain(1))

    with pytest.raises(Blocked, match="no python engine `other` here; known: mine"):
        load("python", qwen2_tiny, call="other")
    with pytest.raises(ContractError, match="does not say which function"):
        load("python", qwen2_tiny)


def test_a_stage_that_it_does_not_show_is_refused(qwen2_tiny):
    python_engine("mine", version="1", stages=["lm_head"])(chain(1))

    with pytest.raises(CaptureError, match="does not show stage `ffn_up`"):
        record(load("python", qwen2_tiny, call="mine"), PROMPT, Plan(stages=("ffn_up",)))


def test_the_template_of_the_documentation_runs_as_it_stands(root, qwen2_tiny, tmp_path):
    pytest.importorskip("transformers")
    page = (root / "docs" / "engines.md").read_text(encoding="utf-8")
    template = page.partition("```python\n")[2].partition("```")[0]
    source = tmp_path / "conftest.py"
    source.write_text(template)
    plan = Plan(stages=("embedding", "attn_norm"), layers=(0,))

    exec(compile(template, source, "exec"), {})
    mine = record(load("python", qwen2_tiny, call="mine"), PROMPT, plan)

    assert len(template.splitlines()) <= 40
    theirs = record(load("transformers", qwen2_tiny), PROMPT, plan)
    for site, tensor in theirs.tensors.items():
        np.testing.assert_allclose(mine.tensors[site].array, tensor.array, rtol=1e-5, atol=1e-6)
