"""What a run is asked to observe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import STAGES, Scope, Site

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The stages, layers and steps of one run.

    Attributes:
        stages: canonical names, or None for all that the session can show; empty means that
            nothing is observed but the run's answer.
        layers: the layers, or None for all of the model's.
        decode_steps: how many greedy tokens are decoded after the prefill.
    """

    stages: tuple[str, ...] | None = ()
    layers: tuple[int, ...] | None = None
    decode_steps: int = 0

    def resolved(self, stages: tuple[str, ...]) -> Plan:
        """Return this plan with "all that can be shown" spelt out."""
        return replace(self, stages=stages) if self.stages is None else self

    @property
    def named_stages(self) -> tuple[str, ...]:
        """The stages of a resolved plan.

        Raises:
            CaptureError: when it still says "all that can be shown".
        """
        if self.stages is None:
            msg = "the plan asks for all stages and was not resolved against a session"
            raise CaptureError(msg)
        return self.stages

    def sites(self, layer_count: int) -> Iterator[Site]:
        """Yield the sites of this plan on a model, in causal order.

        Raises:
            CaptureError: when a layer is out of the model's range.
        """
        layers = range(layer_count) if self.layers is None else self.layers
        for layer in layers:
            if not 0 <= layer < layer_count:
                msg = f"layer {layer} is out of range"
                raise CaptureError(msg, expected=f"a layer of 0..{layer_count - 1}")
        found = [
            Site(step, layer, name)
            for step in range(self.decode_steps + 1)
            for name in self.named_stages
            for layer in (layers if STAGES[name].scope is Scope.LAYER else (None,))
        ]
        yield from sorted(found, key=lambda site: site.causal_key)

    def covers(self, other: Plan) -> bool:
        """Tell whether a run of this plan also shows all that the other asks for."""
        has_layers = self.layers is None or (
            other.layers is not None and set(other.layers) <= set(self.layers)
        )
        return (
            has_layers
            and set(other.named_stages) <= set(self.named_stages)
            and self.decode_steps == other.decode_steps
        )

    def union(self, other: Plan) -> Plan:
        """Return the smallest plan that covers both; their decode steps must be equal."""
        layers = None
        if self.layers is not None and other.layers is not None:
            layers = tuple(sorted({*self.layers, *other.layers}))
        stages = tuple(name for name in STAGES if name in {*self.named_stages, *other.named_stages})
        return Plan(stages=stages, layers=layers, decode_steps=self.decode_steps)

    def to_json(self) -> dict[str, object]:
        """Return this plan as a JSON value."""
        return {
            "decode_steps": self.decode_steps,
            "layers": None if self.layers is None else sorted(self.layers),
            "stages": sorted(self.named_stages),
        }
