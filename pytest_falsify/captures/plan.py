"""What a run is asked to observe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import STAGES, TRANSFER, Scope, Site, in_order

CACHES = ("k_cache", "v_cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The stages, layers and steps of one run.

    Attributes:
        stages: canonical names, or None for all that the session can show; empty means that
            nothing is observed but the run's answer.
        layers: the layers, or None for all of the model's.
        decode_steps: how many tokens are decoded after the prefill.
        positions: of the tokens of the prefill whose rows are kept, counted from the end where
            negative; None: all. A decode step has one token, and keeps it.
        needs_answer: False lets the run end after the last planned site, without its logits.
        has_transfer: the named caches are also observed where they arrive, between prefill and
            decode.
    """

    stages: tuple[str, ...] | None = ()
    layers: tuple[int, ...] | None = None
    decode_steps: int = 0
    positions: tuple[int, ...] | None = None
    needs_answer: bool = True
    has_transfer: bool = False

    def resolved(self, stages: tuple[str, ...]) -> Plan:
        """Return this plan with "all that can be shown" spelt out."""
        return replace(self, stages=stages) if self.stages is None else self

    def answer_only(self) -> Plan:
        """Return the part of this plan that somebody can keep who shows no stage."""
        return Plan(stages=(), decode_steps=self.decode_steps)

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

    @property
    def chosen(self) -> tuple[int, ...] | None:
        """The positions, each once and in order."""
        return None if self.positions is None else tuple(sorted(set(self.positions)))

    def sites(self, layer_count: int) -> tuple[Site, ...]:
        """Return the sites of this plan on a model, in causal order.

        Raises:
            CaptureError: when a layer is out of the model's range.
        """
        return _sites(self, layer_count)

    def covers(self, other: Plan) -> bool:
        """Tell whether a run of this plan also shows all that the other asks for."""
        has_layers = self.layers is None or (
            other.layers is not None and set(other.layers) <= set(self.layers)
        )
        return (
            has_layers
            and set(other.named_stages) <= set(self.named_stages)
            and self.decode_steps == other.decode_steps
            and self.chosen == other.chosen
            and self.needs_answer >= other.needs_answer
            and self.has_transfer >= other.has_transfer
        )

    def union(self, other: Plan) -> Plan:
        """Return the smallest plan that covers both, whose steps and positions must be equal."""
        layers = None
        if self.layers is not None and other.layers is not None:
            layers = tuple(sorted({*self.layers, *other.layers}))
        return replace(
            self,
            stages=in_order((*self.named_stages, *other.named_stages)),
            layers=layers,
            needs_answer=self.needs_answer or other.needs_answer,
            has_transfer=self.has_transfer or other.has_transfer,
        )

    def to_json(self) -> dict[str, object]:
        """Return this plan as a JSON value."""
        plan: dict[str, object] = {
            "decode_steps": self.decode_steps,
            "layers": None if self.layers is None else sorted(self.layers),
            "stages": sorted(self.named_stages),
        }
        if self.chosen is not None:
            plan["positions"] = list(self.chosen)
        if not self.needs_answer:
            plan["needs_answer"] = False
        if self.has_transfer:
            plan["has_transfer"] = True
        return plan


@lru_cache(maxsize=256)
def _sites(plan: Plan, layer_count: int) -> tuple[Site, ...]:
    layers = range(layer_count) if plan.layers is None else plan.layers
    for layer in layers:
        if not 0 <= layer < layer_count:
            msg = f"layer {layer} is out of range"
            raise CaptureError(msg, expected=f"a layer of 0..{layer_count - 1}")
    found = [
        Site(step, layer, name)
        for step in range(plan.decode_steps + 1)
        for name in plan.named_stages
        for layer in (layers if STAGES[name].scope is Scope.LAYER else (None,))
    ]
    if plan.has_transfer:
        caches = [name for name in plan.named_stages if name in CACHES]
        found += [Site(TRANSFER, layer, name) for name in caches for layer in layers]
    return tuple(sorted(found, key=lambda site: site.causal_key))
