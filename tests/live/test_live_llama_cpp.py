"""llama.cpp on SmolLM2-135M: what stops early computes less, and faults in the file are found."""

from __future__ import annotations

import pytest

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines import llama_cpp
from pytest_falsify.engines.gguf_file import GGUFFile, copy_as_float32
from pytest_falsify.engines.gguf_model import half_split
from pytest_falsify.engines.llama_run import Eye
from pytest_falsify.engines.registry import engine
from pytest_falsify.errors import CaptureError
from pytest_falsify.localize.chain import build
from pytest_falsify.localize.evaluation import Evaluator
from pytest_falsify.localize.naming import name_fault

pytestmark = pytest.mark.live
pytest.importorskip("xllamacpp", reason="make falsify-live installs it")

TEXT = (
    "Water boils at a lower temperature on a mountain than at the sea, because the air presses "
    "less on its surface."
)
STAGES = (
    "attn_norm", "qkv_matmul", "q_post_rope", "k_post_rope", "attention", "attn_out",
    "post_attn_residual", "ffn_norm", "ffn_gate", "ffn_up", "ffn_swigl", "ffn_out",
    "post_ffn_residual",
)  # fmt: skip
NEAR = Plan(stages=STAGES, layers=(6, 7, 8), needs_answer=False)
HEADS = {"attn_q": 9, "attn_k": 3}


def load(name, path, root, **options):
    target = Target(name="smollm2", model=str(path), line=1)
    spec = CaptureSpec(name="mine", engine=name, line=1, options=options)
    return engine(name).load(target, spec, root=root, device="cpu")


@pytest.fixture(scope="module")
def oracle(smollm2, root):
    return load("transformers", smollm2, root / "contracts")


@pytest.fixture(scope="module")
def prompt(oracle):
    return TokenInputs(name="prompt", tokens=oracle.encode(TEXT))


@pytest.fixture
def copied(smollm2, tmp_path):
    """Return a callable that copies the file, with a fault put into the copy."""

    def copy(fault):
        file = GGUFFile.open(smollm2)
        copy_as_float32(file, tmp_path / "model.gguf", change=fault(file))
        return tmp_path / "model.gguf"

    return copy


def test_both_tokenizers_make_the_same_tokens(smollm2, root, oracle):
    session = load("llama.cpp", smollm2, root)

    for text in (TEXT, "Zwölf Boxkämpfer, 1234.5\n\tdef f(x):  return x", "<|im_start|>user\nHi"):
        assert session.encode(text) == oracle.encode(text)


def test_a_run_that_stops_early_leaves_the_other_layers_out(smollm2, root, prompt, monkeypatch):
    session = load("llama.cpp", smollm2, root)
    seen = []

    class Counted(Eye):
        def __call__(self, tensor, asks, data):
            seen.append(tensor)
            return super().__call__(tensor, asks, data)

    def nodes(**more):
        seen.clear()
        record(session, prompt, Plan(stages=("post_ffn_residual",), layers=(0, 1, 2, 3), **more))
        return len(seen)

    monkeypatch.setattr(llama_cpp, "Eye", Counted)
    assert 0 < nodes(needs_answer=False) < 5 / 30 * nodes()


def test_a_truncated_file_is_refused_with_what_llama_cpp_says(smollm2, root, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(smollm2.read_bytes()[:-1_000_000])

    with pytest.raises(CaptureError, match=r"llama\.cpp cannot load this model"):
        load("llama.cpp", cut, root)


def unpermuted(_file):
    def change(name, values):
        part = name.split(".")[2] if name.startswith("blk.7.") else ""
        return half_split(values, HEADS[part]) if part in HEADS else values

    return change


def another_layer(file):
    other = dict(file.tensors())["blk.8.ffn_down.weight"]
    return lambda name, values: other if name == "blk.7.ffn_down.weight" else values


@pytest.mark.parametrize(
    ("fault", "guilty"),
    [
        (lambda _: None, {}),
        (unpermuted, {"0/7/qkv_matmul": "q/k permutation: interleaved -> half"}),
        (another_layer, {"0/7/ffn_out": "wrong layer: layer 7 -> 8"}),
    ],
    ids=["honest", "unpermuted", "wrong-layer"],
)
def test_a_fault_in_the_file_is_found_where_it_is(copied, oracle, prompt, fault, guilty):
    path = copied(fault)

    subject = record(load("llama.cpp", path, path.parent), prompt, NEAR)
    evaluator = Evaluator.of(oracle.model, "float32")
    chain = build(evaluator, subject, oracle=record(oracle, prompt, NEAR))

    names = {each.site: name_fault(evaluator, subject, each.site) for each in chain.guilty}
    assert {str(key): f"{each.fault}: {each.detail}" for key, each in names.items()} == guilty
