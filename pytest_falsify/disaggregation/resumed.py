"""Decoding from a cache that another run received: what good code makes of the same input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pytest_falsify.disaggregation.caches import KEYS, KINDS, VALUES, LayerCache
from pytest_falsify.disaggregation.engine import DisaggregatedSession
from pytest_falsify.disaggregation.frames import to_tensor
from pytest_falsify.disaggregation.worker import Feed, Worker
from pytest_falsify.engines.base import Answer
from pytest_falsify.engines.transformers import TransformersSession
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import TRANSFER, Site

if TYPE_CHECKING:
    import torch

    from pytest_falsify.captures.capture import Capture, Identity, TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.engines.base import Session, Sink


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """A session that starts from the cache of a capture instead of a prefill.

    Attributes:
        session: whose model decodes.
        after: the capture.
        step: which of its caches: what arrived (``TRANSFER``), or what was sent (0).
    """

    session: Session
    after: Capture
    step: int = TRANSFER
    understands: ClassVar[frozenset[str]] = frozenset({"forced"})

    @property
    def layer_count(self) -> int:
        """The number of decoder layers."""
        return self.session.layer_count

    @property
    def stages(self) -> tuple[str, ...]:
        """The canonical stages that ``all`` means."""
        return self.session.stages

    def has(self, site: Site) -> bool:
        """Tell whether the model has a site: its layers may be of different kinds."""
        has = getattr(self.session, "has", None)
        return has is None or bool(has(site))

    def identity(self) -> Identity:
        """Return what runs here, and whose cache it starts from."""
        own = self.session.identity()
        settings = {**own.settings, "resumes": [self.step, self.after.identity.digest]}
        return replace(own, settings=settings)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text."""
        return self.session.encode(text)

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        """Decode the forced tokens; step 0, which is not run, has no logits.

        Raises:
            CaptureError: when the session is not one of transformers, no tokens are forced, or the
                capture has not the cache of every layer.
        """
        if not inputs.forced or not plan.decode_steps:
            msg = "a run that resumes another one decodes tokens that it is given"
            raise CaptureError(msg, expected="forced tokens and decode steps")
        feed = Feed(
            first=inputs.forced[0],
            start=len(inputs.tokens),
            steps=plan.decode_steps,
            forced=inputs.forced,
        )
        layers = [self._received(layer) for layer in range(self.layer_count)]
        decoded = self._worker().decode(layers, feed, plan, sink)
        empty = np.zeros((0, decoded.logits[0].shape[-1]), decoded.logits[0].dtype)
        return Answer(
            logits=(empty, *decoded.logits), continuation=(inputs.forced[0], *decoded.greedy)
        )

    def _worker(self) -> Worker:
        if isinstance(self.session, DisaggregatedSession):
            return Worker(session=self.session.prefill.session)
        if isinstance(self.session, TransformersSession):
            return Worker(session=self.session)
        msg = f"engine {self.session.identity().engine} cannot decode from a given cache"
        raise CaptureError(msg, expected="an oracle of engine transformers or disaggregated")

    def _received(self, layer: int) -> LayerCache:
        return LayerCache(
            keys=self._half(layer, KEYS),
            values=self._half(layer, VALUES),
            length=len(self.after.inputs.tokens),
        )

    def _half(self, layer: int, kind: str) -> torch.Tensor:
        site = Site(self.step, layer, KINDS[kind])
        tensor = self.after.tensors.get(site)
        if tensor is None:
            msg = f"the capture to resume has no {site}"
            raise CaptureError(msg, expected="a run that shows its cache where it arrived")
        return to_tensor(np.array(tensor.array)).transpose(0, 1)
