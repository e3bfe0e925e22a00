"""The stage graph explains what was captured: every stage is what its inputs make of it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from stages_support import DECODE_STEPS, MODELS, load, see, seen  # noqa: E402 - needs torch

from pytest_falsify.errors import CaptureError  # noqa: E402
from pytest_falsify.stages.graph import Context, StageGraph  # noqa: E402
from pytest_falsify.stages.vocabulary import Site  # noqa: E402

INSIDE_EAGER = {"attn_scores", "attn_softmax"}
ONE_MORE_ROUNDING = {"float32": 2**-22, "bfloat16": 2**-7}
"""Measured: at most 1.0e-7 and 4.0e-3 of the norm; 2.2e-7 at 512 channels."""


def sites_of(this):
    return [site for step in range(DECODE_STEPS + 1) for site in this.graph.sites(step)]


def must_be_explained(this, of_biases):
    """Every stage, evaluated of its captured inputs, is what was captured, bit for bit.

    But where the model adds a bias while it multiplies and rounds once: within ``of_biases``.
    """
    for site in sites_of(this):
        found = this.graph.evaluate(site, this.tensors, context=this.context)
        expected = this.tensors[site]
        assert found.dtype == expected.dtype
        if site.stage == "qkv_bias":
            error = (found.double() - expected.double()).norm()
            assert error <= of_biases * expected.double().norm()
        else:
            assert torch.equal(found, expected), site


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_the_graph_has_the_sites_that_the_engine_shows_and_no_others(name, attention):
    this = seen(name, attention)

    expected = set(sites_of(this))
    if attention == "sdpa":
        expected = {site for site in expected if site.stage not in INSIDE_EAGER}
    assert set(this.tensors) == expected


@pytest.mark.parametrize("name", MODELS)
def test_inputs_stand_before_what_is_made_of_them(name):
    graph = seen(name, "eager").graph

    for step in range(2):
        sites = graph.sites(step)
        known = {*graph.sites(step - 1)} if step else set()
        for site in sites:
            parents = graph.inputs(site)
            assert set(parents) <= known, site
            assert parents or site.stage == "embedding"
            known.add(site)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_each_stage_evaluated_of_its_captured_inputs_is_the_captured_tensor(name, dtype):
    must_be_explained(seen(name, "eager", dtype), ONE_MORE_ROUNDING[dtype])


@pytest.mark.parametrize(
    ("attention", "dtype"), [("eager", "float32"), ("sdpa", "float32"), ("sdpa", "bfloat16")]
)
@pytest.mark.parametrize("name", MODELS)
def test_the_whole_pass_chained_from_the_tokens_gives_every_captured_tensor(name, attention, dtype):
    """Each stage is computed of computed stages only, bit for bit.

    The chain goes the way of the model: around a product before its bias, which the model never
    holds, and where attention is fused, through it.
    """
    this = seen(name, attention, dtype)
    every = sites_of(this)
    is_biased = this.graph.has(Site(0, 0, "qkv_bias"))
    chained = {}

    for site in every:
        if site not in this.tensors or (is_biased and site.stage == "qkv_matmul"):
            continue
        found = this.graph.replay(site, chained, context=this.context)
        chained[site] = found.value
        assert found.through == ()
        assert torch.equal(chained[site], this.tensors[site]), site


@pytest.mark.parametrize("model", ["qwen2-tiny", "olmoe-tiny"])
def test_the_trained_models_are_explained(root, model):
    session = load(root / "fixtures" / "models" / model)

    must_be_explained(see(session), ONE_MORE_ROUNDING["float32"])


def test_projections_without_a_bias_are_one_point():
    graph = seen("llama", "eager").graph

    assert not graph.has(Site(0, 0, "qkv_bias"))
    assert graph.inputs(Site(0, 0, "q_post_rope")) == (Site(0, 0, "qkv_matmul"),)
    biased = seen("qwen2", "eager").graph
    assert biased.inputs(Site(0, 0, "q_post_rope")) == (Site(0, 0, "qkv_bias"),)
    assert biased.inputs(Site(0, 0, "qkv_bias")) == (Site(0, 0, "qkv_matmul"),)


def test_the_cache_of_a_decode_step_is_that_of_the_step_before_and_its_own_keys():
    graph = seen("llama", "eager").graph

    assert graph.inputs(Site(0, 1, "k_cache")) == (Site(0, 1, "k_post_rope"),)
    assert graph.inputs(Site(2, 1, "k_cache")) == (Site(1, 1, "k_cache"), Site(2, 1, "k_post_rope"))


@pytest.mark.parametrize("absent", ["ffn_silu", "attn_scores", "k_cache", "embedding"])
def test_a_stage_that_was_not_captured_is_gone_through_and_named(absent):
    this = seen("llama", "eager")
    captured = {site: each for site, each in this.tensors.items() if site.stage != absent}
    gap = Site(0, None if absent == "embedding" else 1, absent)
    readers = [site for site in this.graph.sites() if gap in this.graph.inputs(site)]

    assert readers
    for site in readers:
        found = this.graph.replay(site, captured, context=this.context)
        assert found.through == (gap,)
        assert set(found.sources) <= set(captured)
        assert torch.equal(found.value, this.tensors[site])
        assert this.graph.replay(site, captured, context=this.context, at_most=0) is None


@settings(max_examples=25)
@given(data=st.data(), name=st.sampled_from(["llama", "mistral-window", "qwen3-moe"]))
def test_whatever_was_captured_a_replay_gives_the_tensor_and_says_how(data, name):
    this = seen(name, "eager")
    every = sites_of(this)
    kept = data.draw(st.sets(st.sampled_from(every)), label="captured")
    site = data.draw(st.sampled_from(every), label="site")
    captured = {each: this.tensors[each] for each in every if each in kept}

    found = this.graph.replay(site, captured, context=this.context)

    assert torch.equal(found.value, this.tensors[site])
    assert set(found.sources) <= kept - {site}
    assert not set(found.through) & {*kept, site}
    for order in (found.sources, found.through):
        assert list(order) == sorted(order, key=every.index)


def test_a_replay_reads_the_subjects_own_values_and_not_the_models():
    this = seen("llama", "eager")
    up, swigl = Site(0, 1, "ffn_up"), Site(0, 1, "ffn_swigl")
    disturbed = {**this.tensors, up: this.tensors[up] * 2}

    found = this.graph.replay(swigl, disturbed, context=this.context)

    assert torch.equal(found.value, this.tensors[swigl] * 2)


def test_attention_is_computed_in_one_go_when_what_lies_inside_was_not_captured():
    this = seen("llama", "sdpa")
    site = Site(1, 0, "attention")

    found = this.graph.replay(site, this.tensors, context=this.context)

    assert found.through == ()
    assert set(found.sources) == {
        Site(1, 0, name) for name in ("q_post_rope", "k_cache", "v_cache")
    }


def test_of_two_ways_the_one_that_computes_fewer_stages_is_taken():
    this = seen("llama", "sdpa")
    caches = {"k_cache", "v_cache"}
    captured = {site: each for site, each in this.tensors.items() if site.stage not in caches}

    found = this.graph.replay(Site(0, 1, "attention"), captured, context=this.context)

    assert {site.stage for site in found.through} == caches
    assert torch.equal(found.value, this.tensors[Site(0, 1, "attention")])


def test_a_long_decode_without_caches_is_replayed_through_all_its_steps():
    this = seen("llama", "eager")
    steps = 400
    context = Context.of((1, 2), [3] * steps)
    keys = this.tensors[Site(1, 0, "k_post_rope")]
    captured = {Site(step, 0, "k_post_rope"): keys for step in range(steps + 1)}
    captured[Site(0, 0, "k_post_rope")] = this.tensors[Site(0, 0, "k_post_rope")][:2]

    found = this.graph.replay(Site(steps, 0, "k_cache"), captured, context=context)

    assert len(found.value) == steps + 2
    assert len(found.through) == steps


def test_what_cannot_be_evaluated_is_refused_by_name():
    this = seen("llama", "eager")

    silu = {Site(0, 1, "ffn_silu"): this.tensors[Site(0, 1, "ffn_silu")]}

    with pytest.raises(CaptureError, match="without 0/1/ffn_up"):
        this.graph.evaluate(Site(0, 1, "ffn_swigl"), silu, context=this.context)
    for absent in (Site(0, 2, "attn_out"), Site(0, 0, "moe_router"), Site(0, 0, "qkv_bias")):
        with pytest.raises(CaptureError, match=f"no site {absent}"):
            this.graph.inputs(absent)


@pytest.mark.parametrize(
    ("site", "short"),
    [
        (Site(0, 0, "q_post_rope"), Site(0, 0, "qkv_matmul")),
        (Site(0, 0, "k_cache"), Site(0, 0, "k_post_rope")),
        (Site(1, 0, "v_cache"), Site(0, 0, "v_cache")),
        (Site(0, 0, "attn_scores"), Site(0, 0, "k_cache")),
        (Site(0, 0, "attention"), Site(0, 0, "v_cache")),
    ],
)
def test_what_looks_across_tokens_is_refused_when_some_were_not_captured(site, short):
    this = seen("llama", "eager")
    part = {**this.tensors, short: this.tensors[short][-1:]}

    with pytest.raises(CaptureError, match=f"{site} is computed of . tokens where it needs"):
        this.graph.evaluate(site, part, context=this.context)


def test_a_softmax_of_some_rows_is_refused_and_a_norm_of_them_is_not():
    this = seen("llama", "eager")
    scores, norm = Site(0, 0, "attn_scores"), Site(0, 1, "attn_norm")
    above = this.graph.inputs(norm)[0]
    part = {scores: this.tensors[scores][:, -1:], above: this.tensors[above][-1:]}

    with pytest.raises(CaptureError, match="where it needs"):
        this.graph.evaluate(Site(0, 0, "attn_softmax"), part, context=this.context)
    found = this.graph.evaluate(norm, part, context=this.context)
    assert torch.equal(found, this.tensors[norm][-1:])


def test_a_step_that_nothing_is_known_about_is_refused():
    this = seen("llama", "eager")
    embedding = Site(DECODE_STEPS + 1, None, "embedding")

    with pytest.raises(CaptureError, match=f"step {DECODE_STEPS + 1} was fed"):
        this.graph.evaluate(embedding, {}, context=this.context)


def test_a_model_without_a_family_is_refused():
    import transformers

    config = transformers.BloomConfig(vocab_size=8, hidden_size=8, n_layer=1, n_head=2)

    with pytest.raises(CaptureError, match="`bloom` has no stage map"):
        StageGraph.of(transformers.BloomForCausalLM(config))
