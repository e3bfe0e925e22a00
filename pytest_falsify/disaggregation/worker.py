"""One worker: a loaded model that prefills, or decodes from a cache that it was given."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.plan import CACHES
from pytest_falsify.disaggregation.caches import (
    KEYS,
    KINDS,
    VALUES,
    LayerCache,
    Memory,
    extracted,
    installed,
    layer_extracted,
    windows_of,
)
from pytest_falsify.disaggregation.codecs import loaded
from pytest_falsify.disaggregation.frames import to_array
from pytest_falsify.disaggregation.own import own
from pytest_falsify.engines.handout import HandOut, Member, off_device
from pytest_falsify.engines.transformers import TransformersEngine
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import STAGES, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import torch

    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.engines.base import Sink
    from pytest_falsify.engines.transformers import TransformersSession

    Array = np.ndarray[Any, Any]
    OnLayer = Callable[[int, LayerCache], None]

SOURCES = "s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """What a prefill leaves.

    Attributes:
        logits: (tokens, vocabulary).
        layers: the cache.
    """

    logits: Array
    layers: tuple[LayerCache, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What decode steps leave: by step the logits (1, vocabulary), and the greedy tokens after."""

    logits: tuple[Array, ...]
    greedy: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What a decode worker is fed.

    Attributes:
        first: the token of the first decode step.
        start: its position.
        steps: how many decode steps there are.
        forced: the tokens of all steps; empty: after the first, each step's greedy token.
    """

    first: int
    start: int
    steps: int
    forced: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A loaded model.

    Attributes:
        memory: how it keeps its cache.
        chunk: how many tokens of a prefill run at once; None: all.
    """

    session: TransformersSession
    memory: Memory = field(default_factory=Memory)
    chunk: int | None = None

    @classmethod
    def load(cls, target: Target, spec: CaptureSpec, *, root: Path, device: str) -> Worker:
        """Load a worker as one side of a capture of the disaggregated engine describes it.

        Raises:
            FalsifyError: when the model or what the worker is set up with cannot be loaded.
        """
        options = dict(spec.options)
        mine = {name: options.pop(name, None) for name in ("cache", "chunk", "setup")}
        plain = replace(spec, options=options)
        session = TransformersEngine().load(target, plain, root=root, device=device)
        if mine["setup"]:
            with own(f"`{mine['setup']}`"):
                loaded(mine["setup"])(session.model)
        return cls(session=session, memory=Memory(**(mine["cache"] or {})), chunk=mine["chunk"])

    def prefill(
        self,
        tokens: tuple[int, ...],
        plan: Plan,
        sink: Sink,
        *,
        room: int,
        on_layer: OnLayer | None = None,
    ) -> Prefilled:
        """Run the tokens, all at once or in chunks.

        Args:
            tokens: the prompt.
            plan: what is observed; of the caches, what is kept for the next token.
            sink: takes the tensors of step 0.
            room: how many tokens there will be in the end.
            on_layer: takes each layer's cache as soon as the layer has run on the last token.
        """
        model = self.session.model
        cache = self.memory.empty(model.config, tokens=room)
        watched = replace(
            plan, stages=tuple(name for name in plan.named_stages if name not in CACHES)
        )
        size = self.chunk or len(tokens)
        gathered = Gathered(sink)
        whole = gathered if size < len(tokens) else sink
        logits: list[Array] = []
        for start in range(0, len(tokens), size):
            is_last = start + size >= len(tokens)
            watcher = on_layer if is_last else None
            with self._streaming(cache, watcher, length=len(tokens)):
                part = tokens[start : start + size]
                output = self._step(part, cache, watched, whole, start=start, step=0)
            logits.append(off_device(output.logits[0]))
        gathered.finish()
        layers = extracted(cache, self.windows, length=len(tokens))
        show(layers, 0, plan, sink)
        return Prefilled(logits=np.concatenate(logits), layers=layers)

    def decode(self, layers: Sequence[LayerCache], feed: Feed, plan: Plan, sink: Sink) -> Decoded:
        """Decode from a cache.

        Args:
            layers: what was received.
            feed: the tokens.
            plan: what is observed.
            sink: takes the tensors of steps 1 to n.
        """
        model = self.session.model
        end = feed.start + feed.steps
        cache = installed(layers, self.memory, model.config, tokens=end, place=self.place)
        logits: list[Array] = []
        greedy: list[int] = []
        token = feed.first
        for step in range(1, feed.steps + 1):
            position = feed.start + step - 1
            output = self._step(
                (token,),
                cache,
                plan,
                Trimmed(sink, position + 1),
                start=position,
                step=step,
            )
            logits.append(off_device(output.logits[0]))
            greedy.append(int(output.logits[0, -1].argmax()))
            if step < feed.steps:
                token = feed.forced[step] if feed.forced else greedy[-1]
        return Decoded(logits=tuple(logits), greedy=tuple(greedy[:-1]))

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each layer."""
        return windows_of(self.session.model.config)

    def place(self, tensor: torch.Tensor) -> torch.Tensor:
        """Bring a received tensor to this worker's device and dtype."""
        return tensor.to(self.session.model.device, self.session.model.dtype)

    def _step(
        self, tokens: tuple[int, ...], cache: Any, plan: Plan, sink: Sink, *, start: int, step: int
    ) -> Any:
        import torch

        end = start + len(tokens)
        own = Member(index=0, positions=tuple(range(start, end)), columns=end)
        out = HandOut(waits=self.session.device != "cpu")
        out.begin(step, [(own, sink)])
        watch = self.session.watch(plan)
        fed = torch.tensor([tokens], device=self.session.device)
        with ExitStack() as stack:
            stack.enter_context(self.session.computing())
            if watch:
                stack.enter_context(watch.watching(self.session.model, out.show))
            output = self.session.model(input_ids=fed, past_key_values=cache, use_cache=True)
        out.finish()
        return output

    @contextmanager
    def _streaming(self, cache: Any, on_layer: OnLayer | None, *, length: int) -> Iterator[None]:
        def hook(layer: int, take: OnLayer) -> Callable[..., None]:
            def ran(*_: Any) -> None:
                window = self.windows[layer]
                take(layer, layer_extracted(cache.layers[layer], window, length=length))

            return ran

        with ExitStack() as stack:
            for layer in range(self.session.layer_count if on_layer else 0):
                if on_layer:
                    handle = self._attention(layer).register_forward_hook(hook(layer, on_layer))
                    stack.callback(handle.remove)
            yield

    def _attention(self, layer: int) -> Any:
        """Return the module after which the cache of a layer is complete."""
        name = self.session.visible.family.attention.format(i=layer)
        try:
            return self.session.model.get_submodule(name)
        except AttributeError as error:
            msg = f"the model has no {name}, so its cache cannot be streamed"
            raise CaptureError(msg, remedy="leave `streamed` out") from error


def show(layers: Sequence[LayerCache], step: int, plan: Plan, sink: Sink) -> None:
    """Hand the cache of a worker to a sink, as the plan asks."""
    chosen = range(len(layers)) if plan.layers is None else plan.layers
    for layer in chosen:
        cache = layers[layer]
        for kind, half in ((KEYS, cache.keys), (VALUES, cache.values)):
            if KINDS[kind] in plan.named_stages:
                array = to_array(half.transpose(0, 1)).copy()
                stage = KINDS[kind]
                tensor = CapturedTensor(
                    array=array, dims=STAGES[stage].dims, positions=cache.positions
                )
                sink(Site(step, layer, stage), tensor)


class Gathered:
    """Joins the tensors of the chunks of a prefill along their tokens.

    Args:
        sink: takes the whole.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._parts: dict[Site, list[CapturedTensor]] = {}

    def __call__(self, site: Site, tensor: CapturedTensor) -> None:
        """Take the part of one chunk.

        Raises:
            CaptureError: when its sources grow from chunk to chunk.
        """
        if SOURCES in tensor.dims.split():
            msg = f"`{site.stage}` cannot be shown of a prefill in chunks"
            raise CaptureError(msg, remedy="leave the stage out, or `chunk`")
        self._parts.setdefault(site, []).append(tensor)

    def finish(self) -> None:
        """Hand out the whole of every site."""
        for site, parts in self._parts.items():
            axis = parts[0].dims.split().index("t")
            self._sink(
                site,
                replace(
                    parts[0],
                    array=np.concatenate([each.array for each in parts], axis=axis),
                    positions=tuple(place for each in parts for place in each.positions),
                ),
            )


class Trimmed:
    """Cuts the slots of a static cache that hold no token.

    Args:
        sink: takes what is left.
        length: how many tokens there are.
    """

    def __init__(self, sink: Sink, length: int) -> None:
        self._sink = sink
        self._length = length

    def __call__(self, site: Site, tensor: CapturedTensor) -> None:
        """Take a tensor with all slots."""
        names = tensor.dims.split()
        if site.stage in CACHES:
            axis = names.index("t")
        elif SOURCES in names:
            axis = names.index(SOURCES)
        else:
            self._sink(site, tensor)
            return
        kept = min(tensor.array.shape[axis], self._length)
        cut = replace(tensor, array=tensor.array.take(range(kept), axis=axis))
        if site.stage in CACHES:
            cut = replace(cut, positions=tuple(range(self._length - kept, self._length)))
        self._sink(site, cut)
