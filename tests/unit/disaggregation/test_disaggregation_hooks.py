"""A hook is a hook whoever wrote it; ours are told what is run, where, and what was seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from disaggregation_support import CACHES, open_session, prompt, watching

from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.disaggregation.hooks import InferenceHook, polled, telling
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import TRANSFER, Site

HERE = "test_disaggregation_hooks"
TOKENS = (3, 5, 8)
FED = prompt(TOKENS, forced=(13, 21))


class FieldsHook:
    """Shaped as the field's: polled by layer, and it returns an object with arrays or None."""

    def on_prefill(self, layer):
        return self._seen(layer, 3) if layer < 2 else None

    def on_kv_transfer(self, layer):
        return SimpleNamespace(kv_cache=np.full((2, 3, 4), layer, np.float32))

    def on_decode_step(self, layer, step):
        return self._seen(layer + 10 * (step + 1), 1)

    def _seen(self, value, tokens):
        return SimpleNamespace(
            hidden_states=np.full((tokens, 4), value, np.float32),
            attention_weights=None,
            logits=np.full((tokens, 7), value, np.float32),
            kv_cache=None,
        )


@dataclass
class OurHook:
    """Remembers what it is told, and returns stages by their names."""

    told: list = field(default_factory=list)

    def on_prefill(self, layer, *, request, site):
        self.told.append((layer, request.tokens, request.positions, str(site)))
        return {"attn_out": np.ones((len(request.tokens), 4), np.float32)}

    def on_kv_transfer(self, layer, **told):
        self.told.append((layer, sorted(told)))

    def on_decode_step(self, layer, step, tensors=None):
        self.told.append((layer, step, tensors))


def test_objects_of_the_fields_shape_are_hooks_and_others_are_not():
    assert isinstance(FieldsHook(), InferenceHook)
    assert isinstance(OurHook(), InferenceHook)
    assert not isinstance(SimpleNamespace(on_prefill=print), InferenceHook)
    with pytest.raises(CaptureError, match="has no on_decode_step, on_kv_transfer"):
        polled(SimpleNamespace(on_prefill=print), FED, Plan(), 2, {}.__setitem__)


def test_what_the_fields_hook_returns_becomes_sites():
    seen = {}
    plan = watching("post_ffn_residual", *CACHES, "lm_head")
    polled(FieldsHook(), FED, plan, 2, seen.__setitem__)

    assert seen[Site(0, 1, "post_ffn_residual")].positions == (0, 1, 2)
    assert seen[Site(TRANSFER, 1, "v_cache")].array.shape == (3, 1, 4)
    assert seen[Site(2, 0, "post_ffn_residual")].array[0, 0] == 20
    assert seen[Site(2, 0, "post_ffn_residual")].positions == (4,)
    assert seen[Site(0, None, "lm_head")].array[0, 0] == 1  # of the last layer alone
    assert Site(0, 0, "k_cache") not in seen


def test_ours_is_told_the_request_and_the_site():
    hook = OurHook()
    seen = {}
    polled(hook, FED, watching("attn_out", steps=1), 1, seen.__setitem__)
    assert hook.told == [
        (0, TOKENS, (0, 1, 2), "0/0/k_cache"),
        (0, ["request", "site"]),
        (0, 0, None),
    ]
    assert seen[Site(0, 0, "attn_out")].array.shape == (3, 4)


def test_a_running_engine_tells_a_hook_of_every_tensor(families):
    session = open_session("disaggregated", families["llama"])
    told = []

    class Looking(FieldsHook):
        def on_prefill(self, layer, *, request, tensors, site):
            told.append((layer, request.tokens, sorted(tensors), str(site)))

        def on_kv_transfer(self, layer, tensors):
            told.append((layer, sorted(tensors)))

    seen = {}
    sink = telling(Looking(), FED, seen.__setitem__)
    session.run(FED, watching("k_cache", steps=1), sink)
    assert told[0] == (0, TOKENS, ["k_cache"], "0/0/k_cache")
    assert told[-1] == (2, ["k_cache"])
    assert len(seen) == 9  # three layers, three legs


class SilentPrefill(FieldsHook):
    """As the field's own: the logits of the prefill are not told."""

    def on_prefill(self, layer):
        return SimpleNamespace(kv_cache=np.zeros((2, 3, 4), np.float32))


def test_logits_of_decode_do_not_stand_for_those_of_a_prefill_that_were_not_told():
    session = open_session("hook", "nowhere", hook=f"{HERE}:SilentPrefill", layers=2)
    capture = record(session, FED, watching("k_cache"))
    assert capture.logits == ()


def test_half_a_cache_is_told():
    class Half(FieldsHook):
        def on_prefill(self, layer):
            return {"kv_cache": np.zeros((1, 3, 4))}

    with pytest.raises(CaptureError, match=r"returned \[1, 3, 4\] for kv_cache"):
        polled(Half(), FED, watching("k_cache", steps=0), 1, {}.__setitem__)


def test_an_axis_too_few_is_told():
    class Flat(FieldsHook):
        def on_prefill(self, layer):
            return {"attn_out": np.ones(4)}

    with pytest.raises(CaptureError, match=r"returned \[4\] for 0/0/attn_out"):
        polled(Flat(), FED, watching("attn_out", steps=0), 1, {}.__setitem__)


def test_a_hook_is_an_engine():
    session = open_session("hook", "nowhere", hook=f"{HERE}:FieldsHook", layers=2)
    capture = record(session, FED, watching("post_ffn_residual", *CACHES))
    assert capture.continuation == (13, 21)
    assert [each.shape for each in capture.logits] == [(3, 7), (1, 7), (1, 7)]
    assert Site(0, 0, "k_cache") in capture.missing
    assert "sources" in session.identity().settings
    with pytest.raises(CaptureError, match="2 decode steps and 0 forced tokens"):
        record(session, prompt(TOKENS), watching("lm_head"))
    with pytest.raises(CaptureError, match="has no `layers`"):
        open_session("hook", "nowhere", hook=f"{HERE}:FieldsHook")
