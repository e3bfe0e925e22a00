"""What an engine is: the one interface between this package and anything that runs a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from pytest_falsify.captures.capture import CapturedTensor, Identity, TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.captures.shortlist import Shortlists
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.stages.vocabulary import Site


class Sink(Protocol):
    """What receives the tensors of a run, one site at a time, in the order they come to be.

    One that is done with a tensor when it returns says ``borrows``: none need be copied for it. One
    that wants sketches alone says ``sketches``: an engine may hand it those.
    """

    def __call__(self, site: Site, tensor: CapturedTensor, /) -> None:
        """Take one tensor. It may be kept: the engine does not write to it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a run returns to its caller whether or not anyone looked inside.

    Attributes:
        logits: one array a step: step 0 ``(tokens, vocab)``, decode steps ``(1, vocab)``.
        continuation: the greedy tokens, one a decode step, whether they were fed or forced ones.
        stopped_at: the last planned site, when the run ended there: its step has no logits.
        shortlists: what a server told of the distributions that each step decided, in place of
            logits; None: the engine has logits.
        caveats: in words, what keeps the run from discharging a claim: answers from a cache, cut
            short, or asked for again.
    """

    logits: tuple[np.ndarray[Any, Any], ...]
    continuation: tuple[int, ...]
    stopped_at: Site | None = None
    shortlists: Shortlists | None = None
    caveats: tuple[str, ...] = ()


class Session(Protocol):
    """One loaded model on one device.

    A session that honours forced tokens or chosen positions names them in ``understands``, a set of
    ``forced`` and ``positions``; of the others neither is ever asked. One whose identity covers all
    that decides its numbers says ``is_identity_complete``: its captures may outlive a test run.
    One that asks a server says ``is_served``: it is asked for its answer alone. Where two of one
    identity may differ, ``place`` tells them apart, and ``machine`` is the digest of the machine
    that computes, where that is not this one.
    """

    @property
    def layer_count(self) -> int:
        """The number of decoder layers."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The canonical stages that it can show, in execution order."""

    def identity(self) -> Identity:
        """Return what runs here."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, with the model's own tokenizer."""

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        """Run the plan from a clean state and hand each planned tensor to the sink."""


class Engine(Protocol):
    """A way of running models, found by the name that a capture's ``engine:`` gives."""

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]]
    """JSON Schema of each option that a capture may give it."""

    def load(self, target: Target, spec: CaptureSpec, *, root: Path, device: str) -> Session:
        """Load the target's model as the capture asks.

        Args:
            target: where the claim is tried.
            spec: the capture and its options.
            root: the folder that a relative model path starts from.
            device: a device that is known to be there: ``cpu`` or ``cuda:N``.

        Raises:
            Blocked: when the engine, the device or the model is absent here.
            FalsifyError: when the model is there but broken.
        """
