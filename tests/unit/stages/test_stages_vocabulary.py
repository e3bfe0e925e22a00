"""Sites are spelled in one way and sort in the order of the forward pass."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.errors import CaptureError, FalsifyError
from pytest_falsify.stages.family import FAMILIES, family_for, family_of
from pytest_falsify.stages.vocabulary import ALIASES, STAGES, Scope, Site, canonical, in_order


@st.composite
def sites(draw):
    stage = draw(st.sampled_from(list(STAGES)))
    layer = draw(st.integers(0, 200)) if STAGES[stage].scope is Scope.LAYER else None
    return Site(draw(st.integers(0, 5000)), layer, stage)


@given(sites())
def test_a_site_is_read_back_as_it_was_written(site):
    assert Site.parse(str(site)) == site


@given(st.lists(sites(), min_size=2, max_size=30))
def test_causal_order_is_step_then_before_layers_after_then_stage(found):
    ordered = sorted(found, key=lambda each: each.causal_key)

    names = list(STAGES)
    for earlier, later in pairwise(ordered):
        assert earlier.step <= later.step
        if earlier.step == later.step and None not in {earlier.layer, later.layer}:
            assert earlier.layer <= later.layer
            if earlier.layer == later.layer:
                assert names.index(earlier.stage) <= names.index(later.stage)
        if earlier.step == later.step and later.stage == "embedding":
            assert earlier.stage == "embedding"


@pytest.mark.parametrize("text", ["", "0/attn_out", "0/x/attn_out", "-1/0/attn_out", "0/0/nope"])
def test_what_is_no_site_is_refused(text):
    with pytest.raises(FalsifyError):
        Site.parse(text)


def test_names_are_trimmed_lowered_and_aliases_resolved():
    assert canonical(" Attn_Out ") == "attn_out"
    assert canonical("layer_output") == "post_ffn_residual"


def test_an_unknown_stage_is_refused_with_the_nearest():
    with pytest.raises(FalsifyError, match="unknown stage") as caught:
        canonical("ffn_swiglu")

    assert "did you mean `ffn_swigl`?" in str(caught.value)


def test_families_map_canonical_stages_only_and_each_model_type_once():
    types = [name for family in FAMILIES for name in family.model_types]

    assert len(types) == len(set(types))
    for family in FAMILIES:
        assert set(family.taps) <= set(STAGES)
        for stage, tap in family.taps.items():
            assert ("{i}" in tap.module) == (STAGES[stage].scope is Scope.LAYER)
    assert set(ALIASES.values()) <= set(STAGES)
    assert family_of("no-such-type") is None


def test_the_output_of_a_module_is_a_stage_that_keeps_its_case_and_is_never_listed():
    name = canonical(" module:model.layers.0.Mixer ")

    assert name == "module:model.layers.0.Mixer"
    assert Site.parse(f"0/-/{name}") == Site(0, None, name)
    assert STAGES[name].dims == "t d"
    assert STAGES[name].scope is not Scope.LAYER
    assert name not in STAGES
    assert name not in list(STAGES)


@pytest.mark.parametrize("name", ["module:", "module:a/b", "modul:a", "modules"])
def test_what_is_neither_a_stage_nor_a_module_is_refused(name):
    with pytest.raises(FalsifyError, match="unknown stage"):
        canonical(name)
    with pytest.raises(KeyError):
        STAGES[name]


@given(st.lists(st.sampled_from([*STAGES, "module:b", "module:a", "module:c"]), max_size=20))
def test_stages_are_put_in_order_and_modules_keep_theirs(names):
    found = in_order(names)

    assert set(found) == set(names)
    assert len(found) == len(set(found))
    listed = [name for name in found if name in STAGES]
    assert listed == [name for name in STAGES if name in names]
    modules = [name for name in found if name.startswith("module:")]
    assert modules == list(dict.fromkeys(name for name in names if name.startswith("module:")))
    if modules and "lm_head" in found:
        assert found.index(modules[-1]) < found.index("lm_head")


def test_the_caches_stand_between_what_fills_them_and_what_reads_them():
    names = list(STAGES)

    assert names.index("k_post_rope") < names.index("k_cache") < names.index("attn_scores")
    assert names.index("v_cache") < names.index("attention")


def test_a_setting_that_a_family_does_not_describe_is_refused_by_name():
    usual = SimpleNamespace(model_type="gpt2", reorder_and_upcast_attn=False)
    other = SimpleNamespace(model_type="gpt2", reorder_and_upcast_attn=True)

    assert family_for(usual) is family_of("gpt2")
    assert family_for(SimpleNamespace(model_type="no-such-type")) is None
    with pytest.raises(CaptureError, match="`reorder_and_upcast_attn`"):
        family_for(other)
