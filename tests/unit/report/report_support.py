"""Small captures whose values are exact on every machine, and their golden files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from pytest_falsify.captures.capture import Capture, CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.stages.vocabulary import STAGES, Site

GOLDEN = Path(__file__).parents[2] / "golden" / "report"
TOKENS = tuple(range(100, 112))
LAYER_STAGES = ("attn_norm", "q_post_rope", "attn_out", "post_attn_residual")
SITES = (
    Site(0, None, "embedding"),
    *(Site(0, layer, stage) for layer in range(3) for stage in LAYER_STAGES),
    Site(0, None, "lm_head"),
)
SIZES = {"t": len(TOKENS), "h": 2, "d": 8, "v": 16}


def values(site: Site) -> np.ndarray:
    """Multiples of 1/4, none of them 0: nothing is rounded anywhere."""
    shape = [SIZES[name] for name in STAGES[site.stage].dims.split()]
    count = np.arange(np.prod(shape)) * 7 + 3 * SITES.index(site)
    return ((count % 11 + 1) / 4).astype(np.float32).reshape(shape)


def make_capture(*, errors=None, sites=SITES) -> Capture:
    """A capture; ``errors`` gives the relative error of some sites, alternating in sign."""
    errors = errors or {}
    tensors = {}
    for site in sites:
        array = values(site)
        sign = np.where(np.arange(array.size) % 2, 1, -1).reshape(array.shape)
        error = np.float32(errors.get(site, 0))
        tensors[site] = CapturedTensor(
            array=(array + array * sign * error).astype(np.float32),
            dims=STAGES[site.stage].dims,
            positions=tuple(range(len(TOKENS))),
        )
    return Capture(
        identity=Identity(
            engine="example",
            versions={"lib": "1.0"},
            weights="sha256:" + "0" * 64,
            settings={"dtype": "float32"},
            device="cpu",
            device_name="CPU",
        ),
        inputs=TokenInputs(name="prompt", tokens=TOKENS),
        plan=Plan(stages=("embedding", *LAYER_STAGES, "lm_head")),
        tensors=tensors,
        logits=(),
    )


def growing(first: Site, *, error: float) -> dict[Site, float]:
    """Errors from a site on, twice as large every four sites."""
    start = SITES.index(first)
    return {
        site: error * 2 ** ((index - start) // 4)
        for index, site in enumerate(SITES)
        if index >= start
    }


def assert_golden(name: str, text: str) -> None:
    """Compare with a golden file; ``UPDATE_GOLDEN=1`` writes it."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text
