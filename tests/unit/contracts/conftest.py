from pathlib import Path

import pytest

from pytest_falsify.contracts.load import load_contract
from pytest_falsify.contracts.vocabulary import Vocabulary
from pytest_falsify.errors import FalsifyError

STAGES = ("embedding", "attn_norm", "attn_out", "post_ffn_residual")


def _stage(name):
    wanted = {"layer_output": "post_ffn_residual"}.get(name, name)
    if wanted in STAGES:
        return wanted
    msg = f"unknown stage `{name}`"
    raise FalsifyError(msg, expected=f"one of {', '.join(STAGES)}")


@pytest.fixture
def vocabulary():
    common = {"subject": {}, "oracle": {}, "noise": {}, "stages": {}, "layers": {}, "inputs": {}}
    limit = {"type": "object", "additionalProperties": {"type": "number"}}
    return Vocabulary(
        checks={
            "parity": {
                "properties": {
                    **common,
                    "expect": limit,
                    "steps": {"type": "integer", "minimum": 0, "default": 0},
                },
                "required": ["subject", "oracle"],
            },
            "deterministic": {
                "properties": {**common, "runs": {"type": "integer", "minimum": 2}},
                "required": ["subject"],
            },
        },
        engines={
            "transformers": {
                "dtype": {"enum": ["float32", "bfloat16", "float16"], "default": "float32"},
                "threads": {"type": "integer"},
            },
            "recorded": {"bundle": {"type": "string"}},
        },
        stage=_stage,
        repeating=frozenset({"deterministic"}),
    )


@pytest.fixture
def load(tmp_path, vocabulary):
    """Write a contract's text to a file and load it."""

    def write_and_load(text):
        path = tmp_path / "claims-v1.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_contract(path, vocabulary=vocabulary)

    return write_and_load


@pytest.fixture
def corpus():
    """The contracts of the field, where they are at hand."""
    folder = Path(__file__).parents[4] / "shared" / "data" / "contracts"
    if not folder.is_dir():
        pytest.skip("the collected contracts of the field are not at hand")
    return sorted(folder.rglob("*.yaml"))


@pytest.fixture
def executable():
    """A small contract of which every part is right."""
    return """\
metadata: {id: C-TINY, version: 1.0.0, description: small}
equations:
  same: {formula: y = x, invariants: [equal, always]}
targets:
  tiny: {model: models/tiny}
  big: {model: org/big, device: "cuda:1", level: live, memory: 24GiB, markers: [slow]}
captures:
  oracle: {engine: transformers, dtype: float32}
  subject: {engine: transformers, dtype: bfloat16}
  control: {engine: recorded, bundle: a}
inputs:
  prompt: {text: "What is 2+2?"}
  ids: {tokens: [1, 2, 3]}
falsification_tests:
- id: FALSIFY-TINY-001
  rule: they agree
  prediction: within limits
  if_fails: look
  binds_to: same
  require: FUNCTIONAL
  check:
    kind: parity
    subject: subject
    oracle: oracle
    noise: {control: control}
    stages: [attn_norm, layer_output]
    layers: 0..2
    expect: {rel_l2: 1e-3}
- id: FALSIFY-TINY-002
  rule: it repeats
  targets: [tiny]
  check: {kind: deterministic, subject: subject, runs: 3, inputs: [ids]}
"""
