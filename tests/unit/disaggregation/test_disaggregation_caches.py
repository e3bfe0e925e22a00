"""A cache that was taken out and put back decodes as if it had never left."""

from __future__ import annotations

from itertools import product

import pytest
from disaggregation_support import FAMILIES

from pytest_falsify.disaggregation.caches import Memory, extracted, installed, windows_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
KINDS = ("dynamic", "static")
STEPS = 3


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, families):
    return transformers.AutoModelForCausalLM.from_pretrained(families[request.param]).eval()


# Around the windows of 5 and 7 tokens, and well beyond them.
@pytest.mark.parametrize("length", [3, 4, 5, 6, 7, 8, 12])
def test_every_kind_of_cache_decodes_what_the_whole_run_computes(model, length):
    tokens = torch.arange(2, 2 + length + STEPS)[None]
    with torch.inference_mode():
        whole = model(tokens).logits[0]
        for sent, kept in product(KINDS, KINDS):
            cache = Memory(kind=sent).empty(model.config, tokens=length)
            model(tokens[:, :length], past_key_values=cache)
            layers = extracted(cache, windows_of(model.config), length=length)
            memory = Memory(kind=kept, spare=4, poison=1e4)
            received = installed(
                layers, memory, model.config, tokens=length + STEPS, place=lambda each: each
            )
            for step in range(STEPS):
                place = length + step
                logits = model(tokens[:, place : place + 1], past_key_values=received).logits
                torch.testing.assert_close(logits[0, 0], whole[place], rtol=1e-4, atol=1e-4)


def test_what_is_sent_is_what_the_next_token_may_look_at(model):
    length = 12
    cache = Memory().empty(model.config, tokens=length)
    with torch.inference_mode():
        model(torch.arange(length)[None], past_key_values=cache)

    windows = [getattr(layer, "sliding_window", None) for layer in cache.layers]
    kept = [each.positions for each in extracted(cache, windows_of(model.config), length=length)]

    assert kept == [
        tuple(range(length if window is None else length - window + 1, length))[-length:]
        if window
        else tuple(range(length))
        for window in windows
    ]
