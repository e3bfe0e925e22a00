"""Puts other values into a running model at a site, so that everything after it sees them.

The values are written into the very tensor that the model computed: whoever holds it, a residual
stream or a cache, has them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pytest_falsify.engines.attention import attending
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.operations import usual_attention
from pytest_falsify.stages.vocabulary import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from pytest_falsify.stages.family import Family, Tap

Write = Callable[["torch.Tensor", slice], "torch.Tensor | None"]
"""Takes a stage's tensor, the batch's axis first, and which of the stage's channels it holds;
returns what is to stand there, or None to leave it as it is."""
HEADS = ("q_post_rope", "k_post_rope")
PROJECTED = ("qkv_matmul", "qkv_bias")
PREFIX = "graft_"
_writes: ContextVar[tuple[Mapping[Site, Write], ...]] = ContextVar("graft", default=())


@contextmanager
def written(model: Any, family: Family, writes: Mapping[Site, Write]) -> Iterator[None]:
    """Write into a model's stages while it runs, and leave it as it was.

    Of two writes at one site the one that was begun later has the last word.

    Sites are those of the prefill; what is written there is written at every decode step too,
    unless the write returns None.

    Args:
        model: a model of transformers.
        family: where its stages are.
        writes: by site.

    Raises:
        CaptureError: when a site cannot be written to.
    """
    with ExitStack() as stack:
        for site, write in writes.items():
            tap = family.tap(site)
            if site.stage in PROJECTED:
                for handle in _projections(model, family, site, write):
                    stack.callback(handle.remove)
            elif tap is not None:
                stack.callback(_tap(model, tap, write).remove)
            elif site.stage not in HEADS:
                msg = f"{site} cannot be written to: no tensor of the model is this stage"
                raise CaptureError(msg, expected=f"a stage that a module shows, or {HEADS}")
        if any(site.stage in HEADS for site in writes):
            stack.enter_context(_inside(model, writes))
        yield


def _tap(model: Any, tap: Tap, write: Write) -> Any:
    def on_input(_module: Any, arguments: tuple[Any, ...]) -> None:
        _put(tap.pick(arguments), write)

    def on_output(_module: Any, _arguments: Any, output: Any) -> None:
        _put(tap.pick(output), write)

    module = model.get_submodule(tap.module)
    if tap.is_input:
        return module.register_forward_pre_hook(on_input)
    return module.register_forward_hook(on_output)


def _projections(model: Any, family: Family, site: Site, write: Write) -> Iterator[Any]:
    """Write into each projection's own part of the channels, which lie side by side."""
    first = 0
    for name in family.projections:
        module = model.get_submodule(name.format(i=site.layer))
        width = module.weight.shape[0]

        def on_output(
            _module: Any,
            _given: Any,
            output: torch.Tensor,
            part: slice = slice(first, first + width),
        ) -> None:
            _put(output, write, part)

        yield module.register_forward_hook(on_output)
        first += width


def _put(tensor: torch.Tensor, write: Write, part: slice = slice(None)) -> None:
    value = write(tensor, part)
    if value is not None:
        tensor.copy_(value)


@contextmanager
def _inside(model: Any, writes: Mapping[Site, Write]) -> Iterator[None]:
    before = _writes.get()
    with nullcontext() if before else attending(model, PREFIX, _attend):
        token = _writes.set((*before, writes))
        try:
            yield
        finally:
            _writes.reset(token)


def _attend(
    name: str,
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    *given: Any,
    **options: Any,
) -> Any:
    """Write into the heads, then call the model's own attention."""
    fresh = key[:, :, -query.shape[2] :]
    for writes in _writes.get():
        for stage, heads in zip(HEADS, (query, fresh), strict=True):
            write = writes.get(Site(0, module.layer_idx, stage))
            if write is not None:
                _put(heads.transpose(1, 2), write)
    return usual_attention(name, module)(module, query, key, *given, **options)
