"""Looking at any stage of any family leaves every bit of the answer as it is."""

from __future__ import annotations

import weakref

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from stages_support import DECODE_STEPS, MODELS, PROMPT, seen  # noqa: E402 - needs torch

from pytest_falsify.captures.capture import TokenInputs  # noqa: E402
from pytest_falsify.captures.plan import Plan  # noqa: E402
from pytest_falsify.captures.record import record  # noqa: E402
from pytest_falsify.engines.attention import STAGES_INSIDE  # noqa: E402
from pytest_falsify.engines.forward import Batch  # noqa: E402
from pytest_falsify.stages.vocabulary import STAGES, Site  # noqa: E402


def answers_of(session, stages=()):
    capture = record(session, PROMPT, Plan(stages=stages, decode_steps=DECODE_STEPS))
    return [each.tobytes() for each in capture.logits], capture.continuation


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_whatever_is_captured_the_logits_keep_their_bits(name, attention, dtype):
    session = seen(name, attention, dtype).session
    bare = answers_of(session)

    every = (*session.stages, *session.on_request)
    choices = [
        every,
        tuple(stage for stage in every if stage in STAGES_INSIDE),
        tuple(stage for stage in every if stage not in STAGES_INSIDE),
    ]
    for stages in choices:
        assert answers_of(session, stages) == bare


@pytest.mark.parametrize("name", MODELS)
def test_every_planned_site_arrives_in_the_dims_of_its_stage(name):
    this = seen(name, "eager")

    assert this.capture.missing == ()
    for site, tensor in this.capture.tensors.items():
        dims = tensor.dims.split()
        assert tensor.dims == STAGES[site.stage].dims
        assert tensor.array.ndim == len(dims)
        assert tensor.array.shape[dims.index("t")] == len(tensor.positions)


@pytest.mark.parametrize("name", ["olmoe", "qwen2-moe", "qwen3-moe", "mixtral"])
def test_what_is_captured_of_a_router_is_what_the_experts_were_given(name):
    this = seen(name, "eager")
    model = this.session.model
    given = []
    experts = model.model.layers[1].mlp.experts
    hook = experts.register_forward_pre_hook(lambda _module, arguments: given.append(arguments))
    with torch.inference_mode():
        model(torch.tensor([PROMPT.tokens]))
    hook.remove()

    _, ids, weights = given[0]
    indices = this.tensors[Site(0, 1, "moe_router_indices")]
    assert torch.equal(indices, ids)
    assert torch.equal(this.tensors[Site(0, 1, "moe_router")], weights)
    assert not torch.is_floating_point(indices)
    assert len(set(indices.flatten().tolist())) > 2


def test_a_layer_without_experts_is_an_ordinary_one():
    this = seen("qwen2-moe", "eager")
    stages = [{site.stage for site in this.tensors if site.layer == layer} for layer in (0, 1)]

    assert {"ffn_gate", "ffn_swigl"} <= stages[0]
    assert not [stage for stage in stages[0] if stage.startswith("moe_")]
    assert {"moe_router_logits", "moe_router", "moe_router_indices", "moe_ffn_out"} <= stages[1]
    assert "ffn_gate" not in stages[1]


def test_a_stage_that_a_named_layer_does_not_have_is_missing_and_not_passed_over():
    session = seen("qwen2-moe", "eager").session

    capture = record(session, PROMPT, Plan(stages=("moe_router", "attn_out"), layers=(0, 1)))

    assert capture.missing == (Site(0, 0, "moe_router"),)


def test_the_sequences_of_a_batch_keep_their_own_routes():
    this = seen("mixtral", "eager")
    session = this.session
    prompts = (PROMPT, TokenInputs(name="other", tokens=PROMPT.tokens[::-1][:4]))
    plan = Plan(stages=("moe_router_indices", "moe_ffn_out"))
    apart = [record(session, each, plan).tensors for each in prompts]

    together = [{}, {}]
    session.run_batch(Batch(rows=prompts), plan, tuple(each.__setitem__ for each in together))

    for one, other in zip(together, apart, strict=True):
        assert one.keys() == other.keys()
        for site, tensor in one.items():
            torch.testing.assert_close(
                torch.tensor(tensor.array), torch.tensor(other[site].array), rtol=1e-5, atol=1e-6
            )


def test_what_a_layer_s_projections_put_out_is_let_go_before_the_next_layer_is_shown():
    session = seen("qwen2", "eager").session
    model, alive = session.model, []
    made = []
    hook = model.model.layers[0].self_attn.q_proj.register_forward_hook(
        lambda _module, _arguments, output: made.append(weakref.ref(output))
    )

    class Looking:
        borrows = True

        def __call__(self, site, _tensor):
            alive.append(site.layer == 1 and made[0]() is not None)

    session.run(PROMPT, Plan(stages=("qkv_bias",)), Looking())
    hook.remove()

    assert alive == [False, False]
