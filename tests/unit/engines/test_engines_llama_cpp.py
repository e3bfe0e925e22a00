"""The llama.cpp engine on small models: right values at the right stages, and nothing disturbed."""

from __future__ import annotations

import numpy as np
import pytest
from engines_support import load
from gguf_support import make_llama, write_gguf

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.engines import llama_library
from pytest_falsify.engines.llama_stages import Layout, Nodes, Place, place_of
from pytest_falsify.errors import Blocked, CaptureError
from pytest_falsify.stages.vocabulary import Site

PROMPT = TokenInputs(name="prompt", tokens=(3, 141, 59, 26, 53, 8))
INSTALL = "pip install 'pytest-falsify[llama]' makes these tests run"
DENSE = (
    "embedding", "attn_norm", "qkv_matmul", "q_post_rope", "k_post_rope", "attn_scores",
    "attn_softmax", "attention", "attn_out", "post_attn_residual", "ffn_norm", "ffn_gate",
    "ffn_up", "ffn_swigl", "ffn_out", "post_ffn_residual", "final_norm", "lm_head",
)  # fmt: skip


def test_without_the_library_it_is_blocked_with_the_command(monkeypatch, tmp_path):
    llama_library.library.cache_clear()
    monkeypatch.setattr(llama_library, "find_spec", lambda _: None)

    with pytest.raises(Blocked) as caught:
        load("llama.cpp", tmp_path / "model.gguf")

    assert caught.value.remedy == "pip install 'pytest-falsify[llama]'"


def test_another_build_is_refused_and_not_read_as_garbage(monkeypatch):
    pytest.importorskip("xllamacpp", reason=INSTALL)
    llama_library.library.cache_clear()
    monkeypatch.setattr(llama_library, "version", lambda _: "2026.1.1")

    with pytest.raises(CaptureError, match=r"2026\.1\.1 is installed, whose structs are not known"):
        llama_library.library()


def test_a_struct_that_lies_otherwise_is_refused():
    found = llama_library.ContextParameters(**llama_library.CONTEXT_DEFAULTS)
    llama_library.must_lie_as_written(found, llama_library.CONTEXT_DEFAULTS)
    found.n_ubatch, found.n_seq_max = found.n_seq_max, found.n_ubatch

    with pytest.raises(CaptureError, match=r"ContextParameters\.n_ubatch reads 1"):
        llama_library.must_lie_as_written(found, llama_library.CONTEXT_DEFAULTS)


@pytest.mark.parametrize(
    ("name", "operation", "place"),
    [
        ("Qcur-3", "ROPE", Place(Site(1, 3, "q_post_rope"))),
        ("Kcur-3", "MUL_MAT", Place(Site(1, 3, "qkv_matmul"), 1, 3)),
        ("Vcur-0", "ADD", Place(Site(1, 0, "qkv_bias"), 2, 3)),
        ("Qcur-3", "RESHAPE", None),
        ("l_out-11", "ADD", Place(Site(1, 11, "post_ffn_residual"))),
        ("result_norm", "MUL", Place(Site(1, None, "final_norm"))),
        ("result_norm-1", "MUL", None),
        ("attn_norm", "MUL", None),
        ("node_7", "MUL_MAT", None),
    ],
)
def test_a_node_is_known_by_its_name_and_operation(name, operation, place):
    assert place_of(name, operation, 1) == place


def test_an_unnamed_product_after_the_heads_is_the_output_projection():
    nodes = Nodes(0)
    graph = [
        ("node_1", "MUL_MAT"), ("kqv_out-2", "CONT"), ("node_2", "RESHAPE"), ("node_3", "MUL_MAT"),
        ("node_4", "MUL_MAT"), ("kqv_out-3", "RESHAPE"), ("attn_out-3", "MUL_MAT"),
        ("node_5", "MUL_MAT"),
    ]  # fmt: skip

    shown = [str(place.site) if (place := nodes.place(*each)) else None for each in graph]

    assert shown == [
        None, "0/2/attention", None, "0/2/attn_out", None, "0/3/attention", "0/3/attn_out", None
    ]  # fmt: skip


def test_neighbouring_channels_become_halves():
    layout = Layout(heads=2, key_heads=1, head=4, is_interleaved=True, sources=3)
    rotated = np.arange(8.0).reshape(1, 1, 2, 4)

    heads = layout.turned(Place(Site(0, 0, "q_post_rope")), rotated)

    np.testing.assert_array_equal(heads[0], [[0, 2, 1, 3], [4, 6, 5, 7]])


@pytest.fixture(scope="module")
def models(qwen2_tiny, tmp_path_factory):
    """A model of each order of q and k: its folder, and its GGUF file."""
    pytest.importorskip("xllamacpp", reason=INSTALL)
    pytest.importorskip("gguf", reason=INSTALL)
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models")
    llama = make_llama(folder / "llama")
    return {
        "qwen2": (qwen2_tiny, write_gguf(qwen2_tiny, folder / "qwen2.gguf")),
        "llama": (llama, write_gguf(llama, folder / "llama.gguf")),
        "unpermuted": (llama, write_gguf(llama, folder / "wrong.gguf", permutes=False)),
    }


def stages_of(family):
    return (*DENSE, "qkv_bias") if family == "qwen2" else DENSE


def beyond(subject, oracle, limit):
    compared = compare_captures(subject, oracle).sites
    return [str(each.site) for each in compared if each.total.rel_l2 > limit]


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_every_stage_is_that_of_transformers_in_float32(models, family):
    folder, file = models[family]
    plan = Plan(stages=stages_of(family), decode_steps=3)

    subject = record(load("llama.cpp", file), PROMPT, plan)
    oracle = record(load("transformers", folder), PROMPT, plan)

    assert subject.missing == ()
    assert set(subject.tensors) == set(oracle.tensors)
    assert beyond(subject, oracle, 1e-5) == []
    assert subject.continuation == oracle.continuation
    assert [each.shape for each in subject.logits] == [each.shape for each in oracle.logits]


def test_weights_that_were_not_permuted_show_first_in_the_rotation(models):
    folder, file = models["unpermuted"]
    plan = Plan(stages=("qkv_matmul", "q_post_rope", "attn_out"))

    subject = record(load("llama.cpp", file), PROMPT, plan)
    oracle = record(load("transformers", folder), PROMPT, plan)

    assert beyond(subject, oracle, 1e-5)[0] == "0/0/qkv_matmul"


def test_another_rope_base_shows_first_in_the_rotation(models):
    folder, file = models["llama"]
    plan = Plan(stages=DENSE)

    subject = record(load("llama.cpp", file, rope_base=500), PROMPT, plan)

    oracle = record(load("transformers", folder), PROMPT, plan)
    assert beyond(subject, oracle, 1e-5)[0] == "0/0/q_post_rope"


@pytest.mark.parametrize("options", [{}, {"attention": "flash"}, {"cache": "float16"}])
def test_looking_does_not_change_what_is_seen(models, options):
    session = load("llama.cpp", models["llama"][1], **options)
    stages = (*session.stages, *(each for each in session.on_request if each != "qkv_bias"))

    looked = record(session, PROMPT, Plan(stages=stages, decode_steps=2))
    bare = record(session, PROMPT, Plan(decode_steps=2))

    assert looked.missing == ()
    assert bare.tensors == {}
    for mine, theirs in zip(looked.logits, bare.logits, strict=True):
        assert mine.tobytes() == theirs.tobytes()
    assert looked.continuation == bare.continuation


def test_flash_attention_shows_what_it_has_and_says_what_it_has_not(models):
    folder, file = models["llama"]
    session = load("llama.cpp", file, attention="flash")
    plan = Plan(stages=("attention", "lm_head"))

    subject, oracle = (
        record(each, PROMPT, plan) for each in (session, load("transformers", folder))
    )

    assert beyond(subject, oracle, 5e-3) == []
    with pytest.raises(CaptureError, match="attn_softmax") as caught:
        record(session, PROMPT, Plan(stages=("attn_softmax",)))
    assert "attention: eager" in str(caught.value)


def test_a_run_that_needs_no_answer_ends_at_its_last_site(models):
    session = load("llama.cpp", models["qwen2"][1])
    plan = Plan(stages=("qkv_matmul", "attn_out"), layers=(1,), needs_answer=False)

    stopped = record(session, PROMPT, plan)
    whole = record(session, PROMPT, Plan(stages=plan.stages, layers=(1,)))

    assert stopped.logits == ()
    assert stopped.tensors.keys() == whole.tensors.keys()
    for site, tensor in whole.tensors.items():
        np.testing.assert_array_equal(stopped.tensors[site].array, tensor.array)


def test_what_goes_wrong_in_the_sink_is_raised_after_the_run(models):
    class Full(Exception):
        pass

    def sink(site, tensor):
        raise Full

    session = load("llama.cpp", models["llama"][1])
    with pytest.raises(Full):
        session.run(PROMPT, Plan(stages=("attn_norm",)), sink)
    assert record(session, PROMPT, Plan()).logits[0].shape == (6, 256)


def test_its_own_tokenizer_makes_the_tokens(models, qwen2_tiny):
    session = load("llama.cpp", models["qwen2"][1])

    for text in ("What is 2+2?", "The function returns a new list"):
        assert session.encode(text) == load("transformers", qwen2_tiny).encode(text)


def test_forced_tokens_are_fed_and_the_greedy_ones_are_told(models):
    folder, file = models["qwen2"]
    forced = TokenInputs(name="forced", tokens=PROMPT.tokens, forced=(7, 8))
    plan = Plan(decode_steps=2)

    subject, oracle = (
        record(load(name, model), forced, plan)
        for name, model in (("llama.cpp", file), ("transformers", folder))
    )

    assert subject.continuation == oracle.continuation
    np.testing.assert_allclose(subject.logits[2], oracle.logits[2], rtol=1e-3, atol=1e-3)


def test_quantised_weights_can_run_as_float32(models, tmp_path):
    import gguf

    folder, _ = models["qwen2"]
    kind = gguf.GGMLQuantizationType.Q8_0
    file = write_gguf(folder, tmp_path / "q8.gguf", quantised=kind)
    plan = Plan(stages=("qkv_matmul", "ffn_out", "lm_head"))

    oracle = record(load("transformers", file, root=tmp_path), PROMPT, plan)
    own, expanded = (
        record(load("llama.cpp", file, root=tmp_path, weights=each), PROMPT, plan)
        for each in ("own", "float32")
    )

    assert beyond(expanded, oracle, 1e-5) == []
    assert beyond(own, oracle, 1e-4)[0] == "0/0/qkv_matmul"
    assert own.identity.digest != expanded.identity.digest


@pytest.mark.parametrize("keeps", [3, 5_000, -100])
def test_a_truncated_file_is_refused_with_what_llama_cpp_says(models, tmp_path, keeps):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(models["llama"][1].read_bytes()[:keeps])

    with pytest.raises(CaptureError, match=r"llama\.cpp cannot load this model: \w+"):
        load("llama.cpp", cut)


def test_a_folder_of_transformers_is_no_model_of_llama_cpp(models):
    with pytest.raises(CaptureError, match="needs a GGUF file"):
        load("llama.cpp", models["llama"][0])


def test_the_identity_follows_what_decides_the_numbers(models):
    file = models["llama"][1]
    options = ({}, {"attention": "flash"}, {"cache": "float16"}, {"rope_base": 500}, {"threads": 2})

    digests = {load("llama.cpp", file, **each).identity().digest for each in options}

    assert len(digests) == len(options)
    assert load("llama.cpp", file).identity().digest in digests
