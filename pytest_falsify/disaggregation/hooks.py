"""Hooks: what a serving framework shows of its own legs, and what wants to look at ours.

An object with ``on_prefill``, ``on_kv_transfer`` and ``on_decode_step`` is a hook, whoever wrote
it. Each method is asked for a layer; one that also takes ``request``, ``site`` or ``tensors`` is
told them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.plan import CACHES
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import STAGES, TRANSFER, Scope, Site

if TYPE_CHECKING:
    from pytest_falsify.captures.capture import TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.engines.base import Sink

    Array = np.ndarray[Any, Any]

FIELDS = {
    "hidden_states": "post_ffn_residual",
    "attention_weights": "attn_softmax",
    "logits": "lm_head",
}
"""What the field's hooks return, and the stages it is."""
KV_CACHE = "kv_cache"
TOLD = ("request", "site", "tensors")


@runtime_checkable
class InferenceHook(Protocol):
    """What is asked, or told, about the legs of a run; see the module for what may stand beside.

    Each method returns what it saw, as an object or a mapping with ``hidden_states``,
    ``attention_weights``, ``logits``, ``kv_cache`` or any stage by its name, or None.
    """

    def on_prefill(self, layer: int) -> Any:
        """Tell about one layer after the prefill."""

    def on_kv_transfer(self, layer: int) -> Any:
        """Tell about one layer's cache where it arrived."""

    def on_decode_step(self, layer: int, step: int) -> Any:
        """Tell about one layer after the nth decode step, counted from 0 as the field does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRequest:
    """What is run.

    Attributes:
        tokens: the ids that are fed in this leg; of the transfer, those whose cache it is.
        positions: theirs.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]


def polled(hook: InferenceHook, inputs: TokenInputs, plan: Plan, layers: int, sink: Sink) -> None:
    """Ask a hook about every leg and layer of a plan, and hand what it returns to a sink.

    Args:
        hook: whoever knows.
        inputs: what is fed; decode steps are fed the forced tokens.
        plan: what is wanted; what the hook returns beside it is left out.
        layers: how many layers there are.
        sink: takes the tensors.

    Raises:
        CaptureError: when the object is no hook, or what it returns is no tensor of its stage.
    """
    must_be_hook(hook)
    for step, ask in _legs(hook, plan):
        request = _request(inputs, step)
        for layer in range(layers) if plan.layers is None else plan.layers:
            told = {"request": request, "site": Site(step, layer, CACHES[0])}
            for stage, array in _tensors(ask(layer, told)):
                is_there = _has(stage, layer, is_last=layer == layers - 1)
                if stage in plan.named_stages and is_there:
                    site = Site(step, layer if STAGES[stage].scope is Scope.LAYER else None, stage)
                    sink(site, _described(site, array, request))


def telling(hook: InferenceHook, inputs: TokenInputs, sink: Sink) -> Sink:
    """Return a sink that also tells a hook of every tensor, one site at a time.

    Args:
        hook: its methods are called with the layer (and the step), and with what they take of
            ``request``, ``site`` and ``tensors`` (by stage).
        inputs: what is fed.
        sink: takes the tensors as before.
    """
    must_be_hook(hook)

    def tell(site: Site, tensor: CapturedTensor) -> None:
        told = {
            "request": _request(inputs, site.step),
            "site": site,
            "tensors": {site.stage: tensor.array},
        }
        _asked(hook, site.step)(site.layer or 0, told)
        sink(site, tensor)

    return tell


def must_be_hook(hook: object) -> None:
    """Refuse an object that is no hook.

    Raises:
        CaptureError: when it lacks a method.
    """
    if not isinstance(hook, InferenceHook):
        lacks = [name for name in dir(InferenceHook) if name.startswith("on_")]
        absent = [name for name in lacks if not callable(getattr(hook, name, None))]
        msg = f"a {type(hook).__name__} is no hook: it has no {', '.join(absent)}"
        raise CaptureError(msg, expected="on_prefill, on_kv_transfer and on_decode_step")


def _legs(hook: InferenceHook, plan: Plan) -> Iterator[tuple[int, Callable[..., Any]]]:
    steps = [0, *([TRANSFER] if plan.has_transfer else []), *range(1, plan.decode_steps + 1)]
    for step in steps:
        yield step, _asked(hook, step)


def _asked(hook: InferenceHook, step: int) -> Callable[[int, Mapping[str, Any]], Any]:
    """Return what calls the method of a step with what that method takes."""
    method: Callable[..., Any] = hook.on_decode_step
    if step <= 0:
        method = hook.on_prefill if step == 0 else hook.on_kv_transfer
    own = (step - 1,) if step > 0 else ()
    taken = _taken(method)
    return lambda layer, told: method(
        layer, *own, **{name: value for name, value in told.items() if name in taken}
    )


def _taken(method: Callable[..., Any]) -> frozenset[str]:
    parameters = inspect.signature(method).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return frozenset(TOLD)
    return frozenset(each.name for each in parameters) & frozenset(TOLD)


def _request(inputs: TokenInputs, step: int) -> HookRequest:
    count = len(inputs.tokens)
    if step <= 0:
        return HookRequest(tokens=inputs.tokens, positions=tuple(range(count)))
    return HookRequest(tokens=inputs.forced[step - 1 : step], positions=(count + step - 1,))


def _tensors(found: Any) -> Iterator[tuple[str, Array]]:
    """Yield what a hook returned, by stage."""
    if found is None:
        return
    names = (*FIELDS, KV_CACHE, *STAGES)
    for name in names:
        value = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
        if value is None:
            continue
        if name == KV_CACHE:
            halves = np.asarray(value)
            if len(halves) != len(CACHES):
                msg = f"the hook returned {list(halves.shape)} for {KV_CACHE}"
                raise CaptureError(msg, expected="keys and values")
            yield from zip(CACHES, halves, strict=True)
        else:
            yield FIELDS.get(name, name), np.asarray(value)


def _has(stage: str, layer: int, *, is_last: bool) -> bool:
    """Tell whether a layer is where a stage is told of: those outside of layers are told once."""
    scope = STAGES[stage].scope
    return scope is Scope.LAYER or (layer == 0 if scope is Scope.BEFORE else is_last)


def _described(site: Site, array: Array, request: HookRequest) -> CapturedTensor:
    dims = STAGES[site.stage].dims
    names = dims.split()
    if site.stage in CACHES and array.ndim == len(names) - 1:
        array = array[:, np.newaxis]  # the field's caches are (tokens, channels), heads together
    if array.ndim != len(names):
        msg = f"the hook returned {list(array.shape)} for {site}"
        raise CaptureError(msg, expected=f"the axes `{dims}`")
    end = request.positions[-1] + 1
    first = max(0, end - array.shape[names.index("t")])
    return CapturedTensor(array=array, dims=dims, positions=tuple(range(first, end)))
