"""Claims and captures as values: a check decides on nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pytest_falsify.captures.capture import Capture, CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.base import Request
from pytest_falsify.checks.claim import Claim
from pytest_falsify.checks.registry import check
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.contracts.model import CheckSpec, Contract, Falsifier, InputSpec, Target
from pytest_falsify.stages.vocabulary import Site

SITES = (Site(0, None, "embedding"), Site(0, 0, "attn_out"), Site(0, None, "lm_head"))


def make_claim(kind: str, **parameters: object) -> Claim:
    spec = CheckSpec(kind=kind, line=1, parameters=parameters)
    return Claim(
        contract=Contract(
            path=Path("c.yaml"), id="C", inputs={"prompt": InputSpec(name="prompt", line=1)}
        ),
        falsifier=Falsifier(id="FALSIFY-A-1", line=1, check=spec),
        target=Target(name="here", model="./m", line=1),
    )


def make_capture(
    *,
    values: dict[Site, np.ndarray] | None = None,
    sites: tuple[Site, ...] = SITES,
    logits: np.ndarray | None = None,
    continuation: tuple[int, ...] = (),
    missing: tuple[Site, ...] = (),
) -> Capture:
    rng = np.random.default_rng(0)
    arrays = {site: rng.normal(size=(4, 8)).astype(np.float32) for site in SITES} | (values or {})
    answer = rng.normal(size=(4, 16)).astype(np.float32) if logits is None else logits
    return Capture(
        identity=Identity(engine="e", versions={}, weights="w", settings={}, device="cpu"),
        inputs=TokenInputs(name="prompt", tokens=(1, 2, 3, 4)),
        plan=Plan(stages=tuple({site.stage for site in sites})),
        tensors={
            site: CapturedTensor(
                array=arrays[site], dims="t d", positions=tuple(range(len(arrays[site])))
            )
            for site in sites
        },
        logits=(answer,) * (len(continuation) or 1),
        continuation=continuation,
        missing=missing,
    )


def changed(site: Site, place: tuple[int, ...], value: float) -> dict[Site, np.ndarray]:
    array = np.array(make_capture().tensors[site].array)
    array[place] = value
    return {site: array}


def judge(kind: str, subject: Capture | list[Capture], oracle: Capture | None = None, **more):
    names = {"subject": "s"} | ({"oracle": "o"} if oracle is not None else {})
    runs = subject if isinstance(subject, list) else [subject]
    captures = {
        Request(role="subject", capture="s", input="prompt", plan=Plan(), run=run): each
        for run, each in enumerate(runs)
    }
    if oracle is not None:
        captures[Request(role="oracle", capture="o", input="prompt", plan=Plan())] = oracle
    return check(kind).judge(make_claim(kind, **names, **more), captures, compare_captures)
