"""The engine ``hook``: captures that a serving framework's own hook hands out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.captures.capture import Identity
from pytest_falsify.captures.plan import CACHES
from pytest_falsify.disaggregation.codecs import loaded
from pytest_falsify.disaggregation.engine import sources_of
from pytest_falsify.disaggregation.hooks import FIELDS, InferenceHook, must_be_hook, polled
from pytest_falsify.disaggregation.transfer import SCHEMA
from pytest_falsify.engines.base import Answer
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import STAGES, Site
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from pytest_falsify.captures.capture import CapturedTensor, TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.engines.base import Sink

LOGITS = "lm_head"
_STATED = {
    **SCHEMA,
    "properties": {name: each for name, each in SCHEMA["properties"].items() if name != "through"},
}
"""What is watched transfers by itself: nothing of the user's can be put in its way."""


class HookEngine:
    """Asks an object of the user's about every leg and layer: see ``hooks.InferenceHook``."""

    name: ClassVar[str] = "hook"
    options: ClassVar[Mapping[str, Any]] = {
        "hook": {
            "type": "string",
            "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
            "description": "`module:attribute`: a hook, or what makes one when it is called",
        },
        "layers": {"type": "integer", "minimum": 1, "description": "how many decoder layers"},
        "version": {"type": "string", "minLength": 1, "description": "of what the hook watches"},
        "transfer": _STATED,
    }

    def load(self, target: Target, spec: CaptureSpec, *, root: Path, device: str) -> HookSession:
        """Find the hook; see ``Engine.load``."""
        del target, root
        for name in ("hook", "layers"):
            if name not in spec.options:
                msg = f"capture `{spec.name}` has no `{name}`"
                raise CaptureError(msg, expected="`hook` and `layers`, best `version` too")
        found = loaded(spec.options["hook"])
        is_made = isinstance(found, InferenceHook) and not isinstance(found, type)
        hook = found if is_made else found()
        must_be_hook(hook)
        return HookSession(
            hook=hook,
            layer_count=spec.options["layers"],
            settings={**spec.options, "sources": sources_of({spec.options["hook"]})},
            device=device,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HookSession:
    """A hook on one device."""

    hook: InferenceHook
    layer_count: int
    settings: Mapping[str, Any]
    device: str
    understands: ClassVar[frozenset[str]] = frozenset({"forced"})

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that the field's hooks return, in execution order."""
        shown = {*FIELDS.values(), *CACHES}
        return tuple(name for name in STAGES if name in shown)

    def identity(self) -> Identity:
        """Return what is watched, as far as the capture says it."""
        return Identity(
            engine=HookEngine.name,
            versions={},
            weights="unstated",
            settings=self.settings,
            device=self.device.partition(":")[0],
        )

    def encode(self, text: str) -> tuple[int, ...]:
        """Refuse: a hook has no tokenizer.

        Raises:
            CaptureError: always.
        """
        msg = f"a hook cannot make tokens of a text: {text[:40]!r}"
        raise CaptureError(msg, remedy="give the input as `tokens: [...]`")

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        """Ask the hook about all that is planned; decode steps are fed the forced tokens.

        The answer ends before the first step whose logits it does not return.

        Raises:
            CaptureError: when decode steps are planned and no tokens are forced.
        """
        if plan.decode_steps > len(inputs.forced):
            forced = number_of(len(inputs.forced), "forced token")
            msg = f"{number_of(plan.decode_steps, 'decode step')} and {forced}"
            raise CaptureError(msg, expected="`forced`: a hook does not choose tokens")
        logits: dict[int, np.ndarray[Any, Any]] = {}

        def take(site: Site, tensor: CapturedTensor) -> None:
            if site.stage == LOGITS:
                logits[site.step] = tensor.array
            if site.stage in plan.named_stages:
                sink(site, tensor)

        polled(self.hook, inputs, _with_logits(plan), self.layer_count, take)
        told = takewhile(logits.__contains__, range(plan.decode_steps + 1))
        shown = tuple(logits[step] for step in told)
        return Answer(logits=shown, continuation=inputs.forced[: plan.decode_steps])


def _with_logits(plan: Plan) -> Plan:
    return replace(plan, stages=tuple(dict.fromkeys((*plan.named_stages, LOGITS))), layers=None)
