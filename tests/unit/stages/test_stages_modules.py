"""A model of an unknown family still shows the output of every module, in the order they end."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from stages_support import PROMPT, load  # noqa: E402 - needs torch

from pytest_falsify.captures.bundle import read_bundle, write_bundle  # noqa: E402
from pytest_falsify.captures.plan import Plan  # noqa: E402
from pytest_falsify.captures.record import record  # noqa: E402
from pytest_falsify.errors import CaptureError  # noqa: E402
from pytest_falsify.stages.vocabulary import MODULE, STAGES, Site  # noqa: E402

UNKNOWN = {
    "gpt_neox": ("GPTNeoXForCausalLM", {"intermediate_size": 48}),
    "opt": ("OPTForCausalLM", {"ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 1}),
}
RECURRENT = {
    "mamba": ("MambaForCausalLM", {"state_size": 8}),
    "rwkv": ("RwkvForCausalLM", {"attention_hidden_size": 32}),
}


def made(architecture, folder, **options):
    kind = getattr(transformers, architecture)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0, **options,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind(kind.config_class(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=UNKNOWN)
def folder(request, tmp_path_factory):
    architecture, options = UNKNOWN[request.param]
    return made(architecture, tmp_path_factory.mktemp(request.param), **options)


@pytest.fixture(scope="module")
def session(folder):
    return load(folder)


@pytest.fixture(scope="module")
def capture(session):
    return record(session, PROMPT, Plan(stages=session.stages, decode_steps=2))


def by_hooks(model):
    """What every module puts out, in the order they end, seen by hooks of our own."""
    found = {}

    def note(name, _module, _arguments, output):
        found[name] = output[0] if isinstance(output, tuple) else output

    hooks = [
        module.register_forward_hook(partial(note, name)) for name, module in model.named_modules()
    ]
    with torch.inference_mode():
        model(torch.tensor([PROMPT.tokens]), use_cache=True)
    for hook in hooks:
        hook.remove()
    return found


def test_every_module_with_a_row_for_each_token_is_a_stage_and_its_tensor_the_modules(
    session, capture
):
    tokens = len(PROMPT.tokens)
    outputs = {
        name: each[0].flatten(1)
        for name, each in by_hooks(session.model).items()
        if getattr(each, "shape", ())[:2] == (1, tokens)
    }
    head = next(
        name
        for name, module in session.model.named_modules()
        if module is session.model.get_output_embeddings()
    )

    expected = [Site(0, None, "lm_head" if name == head else MODULE + name) for name in outputs]
    found = {site: each for site, each in capture.tensors.items() if site.step == 0}
    assert list(found) == expected
    assert len(found) > 15
    for tensor, output in zip(found.values(), outputs.values(), strict=True):
        assert tensor.dims in {"t d", "t v"}
        assert torch.equal(torch.tensor(tensor.array), output)


def test_decode_steps_have_the_same_stages_and_none_is_missing(session, capture):
    assert capture.missing == ()
    assert len(capture.tensors) == 3 * len(session.stages)
    assert [site.step for site in capture.tensors] == sorted(s.step for s in capture.tensors)


@pytest.mark.parametrize(("architecture", "options"), [*UNKNOWN.values(), *RECURRENT.values()])
def test_decode_steps_are_fed_what_the_steps_before_left(architecture, options, tmp_path):
    """Whatever a model calls it: keys and values, or the state of a recurrence."""
    session = load(made(architecture, tmp_path, **options))
    capture = record(session, PROMPT, Plan(stages=session.stages, decode_steps=2))
    tokens = (*PROMPT.tokens, *capture.continuation)

    whole = record(session, replace(PROMPT, tokens=tokens), Plan())

    for step in (1, 2):
        expected = whole.logits[0][len(PROMPT.tokens) - 1 + step]
        np.testing.assert_allclose(capture.logits[step][-1], expected, rtol=1e-4, atol=1e-5)
    assert {site.step for site in capture.tensors} == {0, 1, 2}


def test_an_attention_that_a_model_does_not_have_is_named_with_one_that_it_has(tmp_path):
    with pytest.raises(CaptureError, match="MambaForCausalLM does not support") as caught:
        load(made("MambaForCausalLM", tmp_path, state_size=8), attention="sdpa")

    assert caught.value.remedy == "capture with `attention: eager`"
    assert caught.value.expected is None


def test_a_model_that_carries_nothing_from_step_to_step_does_not_decode(tmp_path):
    session = load(made("BertLMHeadModel", tmp_path, intermediate_size=48))

    assert len(record(session, PROMPT, Plan(stages=session.stages)).tensors) > 15
    with pytest.raises(CaptureError, match="carries nothing from one step to the next"):
        record(session, PROMPT, Plan(decode_steps=1))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_looking_at_all_modules_does_not_change_the_answer(folder, attention):
    session = load(folder, attention=attention)

    looked = record(session, PROMPT, Plan(stages=session.stages, decode_steps=2))
    bare = record(session, PROMPT, Plan(decode_steps=2))

    for one, other in zip(looked.logits, bare.logits, strict=True):
        assert one.tobytes() == other.tobytes()


def test_it_says_which_canonical_stages_could_not_be_mapped(session):
    unmapped = session.visible.unmapped

    assert "lm_head" not in unmapped
    assert set(unmapped) == set(STAGES) - {"lm_head"}
    with pytest.raises(CaptureError, match="`attn_softmax` is not shown") as caught:
        record(session, PROMPT, Plan(stages=("attn_softmax",)))
    assert "module:" in str(caught.value)
    assert "attention: eager" not in str(caught.value)


def test_a_module_that_is_not_there_is_refused(session):
    with pytest.raises(CaptureError, match=r"`module:no\.such` is not shown by this model"):
        record(session, PROMPT, Plan(stages=("module:no.such",)))


def test_modules_asked_for_in_any_order_come_in_the_order_they_end(session, capture):
    backwards = tuple(reversed(session.stages))

    found = record(session, PROMPT, Plan(stages=backwards, decode_steps=2))

    assert list(found.tensors) == list(capture.tensors)


def test_a_bundle_of_modules_is_read_back_in_order(capture, tmp_path):
    write_bundle(capture, tmp_path / "bundle")

    found = read_bundle(tmp_path / "bundle")

    assert list(found.tensors) == list(capture.tensors)
    for site, tensor in capture.tensors.items():
        assert found.tensors[site].array.tobytes() == tensor.array.tobytes()
