"""A session whose runs are counted in a file, and what other processes do with it."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import numpy as np

from pytest_falsify.captures import bundle
from pytest_falsify.captures.cache import CaptureCache
from pytest_falsify.captures.capture import CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.engines.base import Answer

if TYPE_CHECKING:
    from pathlib import Path

PROMPT = TokenInputs(name="p", tokens=(1, 2, 3))
PLAN = Plan(stages=("embedding", "attn_out", "lm_head"))


class Counted:
    """Shows random numbers that its weights decide, after a while."""

    layer_count = 3
    stages = PLAN.stages
    is_identity_complete = True
    understands = frozenset({"positions"})

    def __init__(self, counts: Path, *, seconds: float = 0.0, width: int = 8, **identity: object):
        self.counts, self.seconds, self.width = counts, seconds, width
        facts = {
            "engine": "e", "versions": {"lib": "1"}, "weights": "w", "settings": {},
            "device": "cpu", "device_name": "CPU",
        }  # fmt: skip
        self._identity = Identity(**{**facts, **identity})

    def identity(self):
        return self._identity

    @property
    def runs(self) -> int:
        return len(self.counts.read_text().splitlines()) if self.counts.exists() else 0

    def run(self, inputs, plan, sink):
        with self.counts.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(self.seconds)
        rng = np.random.default_rng(len(self._identity.weights))
        count = len(inputs.tokens)
        for site in plan.sites(self.layer_count):
            values = rng.normal(size=(count, self.width)).astype(np.float32)
            sink(site, CapturedTensor(array=values, dims="t d", positions=tuple(range(count))))
        return Answer(logits=(np.ones((count, 4), np.float32),), continuation=())


def ask(folder: Path, counts: Path, bits: Path, seconds: float) -> None:
    """Ask for a capture and write down the bytes that came."""
    capture = CaptureCache(folder=folder, scope="s").capture(
        Counted(counts, seconds=seconds), PROMPT, PLAN
    )
    bits.write_bytes(b"".join(each.array.tobytes() for each in capture.tensors.values()))


def die_while_running(folder: Path, counts: Path) -> None:
    """Be killed in the middle of a run, the lock in hand."""

    class Dying(Counted):
        def run(self, inputs, plan, sink):
            super().run(inputs, plan, sink)
            os.kill(os.getpid(), signal.SIGKILL)

    CaptureCache(folder=folder, scope="s").capture(Dying(counts), PROMPT, PLAN)


def die_while_writing(folder: Path, counts: Path) -> None:
    """Be killed when the tensors are written and the manifest is not."""
    bundle.manifest_text = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    CaptureCache(folder=folder, scope="s").capture(Counted(counts), PROMPT, PLAN)
