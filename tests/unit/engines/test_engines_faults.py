"""Faults put into real engines and real files: who is guilty is found, and what of is named."""

from __future__ import annotations

import pytest
from engines_support import ARGUMENTS, DECODER, EVERYTHING, build, load
from gguf_support import make_llama, write_gguf

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.engines.gguf_file import GGUFFile, copy_as_float32
from pytest_falsify.engines.gguf_model import half_split
from pytest_falsify.localize.chain import build as build_chain
from pytest_falsify.localize.evaluation import Evaluator
from pytest_falsify.localize.naming import name_fault

pytest.importorskip("transformers")

TOKENS = TokenInputs(name="prompt", tokens=tuple((37 * each + 11) % 256 for each in range(40)))
HEADS = {"attn_q": 4, "attn_k": 2}
ROTATIONS = ("q_post_rope", "k_post_rope")


def localised(subject, oracle, model):
    """Return the guilty sites, each with the fault that explains it."""
    evaluator = Evaluator.of(model, "float32")
    chain = build_chain(evaluator, subject, oracle=oracle)
    assert chain.undecided == ()
    names = {each.site: name_fault(evaluator, subject, each.site) for each in chain.guilty}
    return {str(site): name and f"{name.fault}: {name.detail}" for site, name in names.items()}


@pytest.fixture(scope="module")
def c_engine(root, tmp_path_factory):
    made = build(root / "fixtures" / "engines" / "qwen2.c", tmp_path_factory.mktemp("c"))
    return made or pytest.skip("there is no C compiler to build fixtures/engines/qwen2.c with")


@pytest.fixture(scope="module")
def tiny(qwen2_tiny):
    session = load("transformers", qwen2_tiny)
    return session, record(session, TOKENS, EVERYTHING)


@pytest.mark.parametrize(
    ("fault", "guilty"),
    [
        ("", {}),
        (
            " --fault rope-base",
            {f"0/{layer}/{stage}": "rope base: 10000 -> 1e+06" for layer in range(4)
             for stage in ROTATIONS},
        ),
        (
            " --fault interleaved",
            {f"0/{layer}/{stage}": "rope layout: half -> interleaved" for layer in range(4)
             for stage in ROTATIONS},
        ),
        (" --fault wrong-layer", {"0/1/ffn_out": "wrong layer: layer 1 -> 2"}),
    ],
    ids=["honest", "rope-base", "interleaved", "wrong-layer"],
)  # fmt: skip
def test_a_fault_in_a_program_is_found_where_it_is(c_engine, tiny, qwen2_tiny, fault, guilty):
    session, oracle = tiny
    run = f"{c_engine} {ARGUMENTS}{fault}"
    mine = load("command", qwen2_tiny, run=run, version="echo 1", stages=list(DECODER))

    assert localised(record(mine, TOKENS, EVERYTHING), oracle, session.model) == guilty


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A small Llama, its GGUF file, and what transformers makes of it."""
    for name in ("gguf", "xllamacpp"):
        pytest.importorskip(name, reason="pip install 'pytest-falsify[llama]' makes it run")
    folder = tmp_path_factory.mktemp("llama")
    file = GGUFFile.open(write_gguf(make_llama(folder / "model"), folder / "model.gguf"))
    shown = {*DECODER} - {"qkv_bias", "ffn_silu"}
    plan = Plan(stages=tuple(name for name in DECODER if name in shown))
    session = load("transformers", folder / "model")
    return file, session, plan, record(session, TOKENS, plan)


def unpermuted(file):
    def change(name, values):
        part = name.split(".")[2] if name.startswith("blk.1.") else ""
        return half_split(values, HEADS[part]) if part in HEADS else values

    return {"change": change}


def another_base(file):
    return {"metadata": {"llama.rope.freq_base": 1e6}}


def another_layer(file):
    other = dict(file.tensors())["blk.1.ffn_down.weight"]
    return {"change": lambda name, values: other if name == "blk.0.ffn_down.weight" else values}


@pytest.mark.parametrize(
    ("fault", "guilty"),
    [
        (lambda file: {}, {}),
        (unpermuted, {"0/1/qkv_matmul": "q/k permutation: interleaved -> half"}),
        (
            another_base,
            {f"0/{layer}/{stage}": "rope base: 10000 -> 1e+06" for layer in range(2)
             for stage in ROTATIONS},
        ),
        (another_layer, {"0/0/ffn_out": "wrong layer: layer 0 -> 1"}),
    ],
    ids=["honest", "unpermuted", "rope-base", "wrong-layer"],
)  # fmt: skip
def test_a_fault_in_a_gguf_file_is_found_where_it_is(llama, tmp_path, fault, guilty):
    file, session, plan, oracle = llama
    copy_as_float32(file, tmp_path / "model.gguf", **fault(file))

    subject = record(load("llama.cpp", tmp_path / "model.gguf"), TOKENS, plan)

    assert localised(subject, oracle, session.model) == guilty
