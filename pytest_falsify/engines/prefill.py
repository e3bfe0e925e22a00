"""Decoding with an engine that only knows how to run a whole sequence.

Each decode step is a run of its own over all tokens so far, without a cache; its tensors are the
last token's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.unstated import TOKENS
from pytest_falsify.engines.base import Answer
from pytest_falsify.engines.written import logits_of
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import Site

if TYPE_CHECKING:
    import numpy as np

    from pytest_falsify.captures.capture import CapturedTensor, TokenInputs
    from pytest_falsify.engines.base import Sink

LOGITS = Site(0, None, "lm_head")
CACHES = frozenset({"k_cache", "v_cache"})
UNDERSTANDS = frozenset({"forced"})
"""What a session that decodes so honours; see ``Session``."""
Seen = tuple[Mapping[Site, "CapturedTensor"], "np.ndarray[Any, Any] | None"]
Forward = Callable[[tuple[int, ...]], Seen]
"""Runs tokens from a clean state: the tensors of step 0, and the logits, (tokens, vocab)."""
Show = Callable[[tuple[int, ...], Plan], Mapping[Site, "CapturedTensor"]]
"""Runs tokens from a clean state: the tensors of every site of a plan of one step."""


def seeing(
    show: Show, plan: Plan, *, who: str, stages: Collection[str], layer_count: int
) -> Forward:
    """Return one whole run of what tells its logits only by showing them as a stage.

    Args:
        show: the run.
        plan: what is observed; the logits are asked for as well where they can be shown.
        who: what runs, for messages.
        stages: what it shows when asked.
        layer_count: decoder layers.

    Raises:
        CaptureError: when a stage is not shown, or nothing at all is asked for.
    """
    for stage in plan.named_stages:
        if stage not in stages:
            msg = f"{who} does not show stage `{stage}`"
            raise CaptureError(msg, expected=f"one of {', '.join(stages)}")
    one_step = Plan(stages=plan.stages, layers=plan.layers)
    has_logits = LOGITS.stage in stages
    asked = one_step.union(Plan(stages=(LOGITS.stage,), layers=())) if has_logits else one_step
    if not asked.named_stages:
        msg = f"{who}: nothing is asked of a run without `{LOGITS.stage}`"
        raise CaptureError(msg, expected=f"`{LOGITS.stage}` among the stages that it shows")
    sites = one_step.sites(layer_count)

    def forward(tokens: tuple[int, ...]) -> Seen:
        found = show(tokens, asked)
        return {site: found[site] for site in sites}, logits_of(found, LOGITS)

    return forward


def run_by_prefill(inputs: TokenInputs, plan: Plan, sink: Sink, forward: Forward) -> Answer:
    """Run a plan with as many whole runs as it has steps.

    Args:
        inputs: what is fed.
        plan: what is observed.
        sink: what receives the tensors.
        forward: one whole run.

    Raises:
        CaptureError: when there are no tokens, or steps are to be decoded without logits.
    """
    if not inputs.tokens:
        msg = f"input `{inputs.name}` has no tokens"
        raise CaptureError(msg, expected="at least one token")
    tokens = inputs.tokens
    greedy: list[int] = []
    found: list[np.ndarray[Any, Any]] = []
    for step in range(plan.decode_steps + 1):
        tensors, logits = forward(tokens)
        for site, tensor in tensors.items():
            at = Site(step, site.layer, site.stage)
            sink(at, tensor if step == 0 else _last(at, tensor))
        if logits is not None:
            found.append(logits if step == 0 else logits[-1:])
        if step < plan.decode_steps:
            greedy.append(_next(logits))
            tokens = (*tokens, inputs.forced[step] if inputs.forced else greedy[-1])
    return Answer(logits=tuple(found), continuation=tuple(greedy))


def _next(logits: np.ndarray[Any, Any] | None) -> int:
    if logits is None:
        msg = "nothing can be decoded: the engine does not show `lm_head`"
        raise CaptureError(msg, expected="`lm_head` among the stages that it shows")
    return int(logits[-1].argmax())


def _last(site: Site, tensor: CapturedTensor) -> CapturedTensor:
    if site.stage in CACHES or TOKENS not in tensor.dims.split():
        return tensor
    axis = tensor.dims.split().index(TOKENS)
    return replace(
        tensor, array=tensor.array.take([-1], axis=axis), positions=tensor.positions[-1:]
    )
