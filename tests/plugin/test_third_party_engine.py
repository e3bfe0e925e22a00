"""A package of somebody else brings an engine, and nothing of ours is changed for it."""

from __future__ import annotations

import sys

import pytest

# Loaded here because torch cannot be loaded twice, as it would be within these tests.
pytest.importorskip("transformers.models.qwen2.modeling_qwen2")

ENGINE = """
    import numpy as np
    from pytest_falsify import python_engine
    from safetensors.numpy import load_file

    @python_engine("theirs", version="0.1", stages=["embedding", "attn_norm"])
    def run(inputs, plan, model):
        weights = load_file(model / "model.safetensors")
        hidden = weights["model.embed_tokens.weight"][list(inputs.tokens)]
        scale = 1 / np.sqrt((hidden**2).mean(-1, keepdims=True) + {epsilon})
        weight = weights["model.layers.0.input_layernorm.weight"]
        return {{"embedding": hidden, "0/0/attn_norm": hidden * scale * weight}}
"""
ENTRY_POINT = """
    [pytest_falsify.python_engines]
    theirs = theirs:run
"""
CONTRACT = """
    metadata: {{id: C-ONE}}
    targets: {{tiny: {{model: {model}, device: cpu}}}}
    captures:
      mine: {{engine: python, call: theirs}}
      oracle: {{engine: transformers, dtype: float32}}
    inputs: {{one: {{tokens: [1, 2, 3]}}}}
    falsification_tests:
    - id: FALSIFY-A-1
      check: {{kind: parity, subject: mine, oracle: oracle, stages: [embedding, attn_norm],
               layers: [0], expect: {{rel_l2: {{max: 1.0e-5}}}}}}
"""


@pytest.fixture
def installed(project, qwen2_tiny, monkeypatch):
    """Return a callable that puts an engine with an epsilon into a package, or a conftest."""
    from pytest_falsify.engines import python

    monkeypatch.setattr(python, "_REGISTERED", {})
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    project.file("contracts/one.yaml", CONTRACT.format(model=qwen2_tiny))

    def install(where, epsilon):
        if where == "conftest":
            project.file("conftest.py", ENGINE.format(epsilon=epsilon))
            return
        project.file("site/theirs.py", ENGINE.format(epsilon=epsilon))
        project.file("site/theirs-0.1.dist-info/METADATA", "Name: theirs\nVersion: 0.1\n")
        project.file("site/theirs-0.1.dist-info/entry_points.txt", ENTRY_POINT)
        monkeypatch.syspath_prepend(project.path / "site")

    return install


@pytest.mark.parametrize(
    ("where", "epsilon", "outcome"),
    [("package", 1e-6, "passed"), ("package", 1e-1, "failed"), ("conftest", 1e-6, "passed")],
)
def test_an_engine_of_somebody_else_is_tried_as_any_other(
    project, installed, where, epsilon, outcome
):
    installed(where, epsilon)

    assert project.run("contracts").outcomes == {outcome: 1}
