"""One run of llama.cpp: a context, its evaluation callback, and the tokens that it is fed."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.engines.llama_library import Callback, Library, Tensor
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_falsify.engines.base import Sink
    from pytest_falsify.engines.llama_stages import Layout, Nodes, Place
    from pytest_falsify.stages.vocabulary import Site

    Array = np.ndarray[Any, Any]

DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    26: np.dtype(np.int32),
}
"""By ``ggml_type``."""
MASKS = {"attn_softmax": "zero"}


@dataclass(kw_only=True)
class Watch:
    """What the evaluation callback looks for in one step, and where it hands it.

    Attributes:
        wanted: the sites of the step.
        positions: of the tokens that are fed.
        last: stop the graph after this site.
        error: what went wrong inside the callback, where nothing can be raised.
    """

    library: Library
    layout: Layout
    nodes: Nodes
    wanted: frozenset[Site]
    positions: tuple[int, ...]
    sink: Sink
    last: Site | None = None
    error: BaseException | None = None
    is_stopped: bool = False
    _asked: Place | None = None
    _parts: dict[Site, dict[int, Array]] = field(default_factory=dict)

    def __call__(self, tensor: int, asks: bool, _data: Any) -> bool:  # noqa: FBT001 - ggml's order
        """Answer ``wanted?`` before a node is computed, and take it afterwards.

        Returns:
            Whether the node is wanted; afterwards, whether the graph goes on.
        """
        try:
            return self._is_wanted(tensor) if asks else self._takes(tensor)
        except BaseException as error:  # noqa: BLE001 - it is raised again where Python is back
            self.error = error
            return False

    def _is_wanted(self, tensor: int) -> bool:
        if self.error is not None:
            return False
        name = self.library.call("ggml_get_name", tensor).decode()
        operation = self.library.call("ggml_op_desc", tensor).decode()
        place = self.nodes.place(name, operation)
        self._asked = place if place is not None and place.site in self.wanted else None
        return self._asked is not None

    def _takes(self, tensor: int) -> bool:
        place, self._asked = self._asked, None
        if place is None:
            return True
        values = self.layout.turned(place, values_of(self.library, tensor))
        parts = self._parts.setdefault(place.site, {})
        parts[place.part] = values
        if len(parts) == place.parts:
            del self._parts[place.site]
            self._hand_out(place.site, [parts[part] for part in sorted(parts)])
        self.is_stopped = place.site == self.last and place.site not in self._parts
        return not self.is_stopped

    def _hand_out(self, site: Site, parts: Sequence[Array]) -> None:
        captured = CapturedTensor(
            array=parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1),
            dims=STAGES[site.stage].dims,
            positions=self.positions,
            mask=MASKS.get(site.stage, "none"),
        )
        self.sink(site, captured)


def values_of(library: Library, pointer: int) -> Array:
    """Copy a node's values, the slowest of its four axes first.

    Raises:
        CaptureError: when they are quantised, or the struct does not describe them.
    """
    found = ctypes.cast(pointer, ctypes.POINTER(Tensor)).contents
    dtype = DTYPES.get(found.type)
    lengths, strides = tuple(found.ne), tuple(found.nb)
    size = library.call("ggml_nbytes", pointer)
    if dtype is None or size != dtype.itemsize + sum(
        (length - 1) * stride for length, stride in zip(lengths, strides, strict=True)
    ):
        msg = f"a node of type {found.type}, shape {lengths} and {size} bytes is not understood"
        raise CaptureError(msg, expected="float32, float16 or int32 of that shape")
    data = np.empty(size, np.uint8)
    library.call("ggml_backend_tensor_get", pointer, data.ctypes.data, 0, size)
    view = np.lib.stride_tricks.as_strided(data.view(dtype), lengths[::-1], strides[::-1])
    return np.array(view, np.float32 if dtype == np.float16 else dtype)


@dataclass(kw_only=True)
class Context:
    """One context; it is fed tokens in order.

    Attributes:
        pointer: ``struct llama_context *``.
        vocabulary: how many logits a token has.
    """

    library: Library
    pointer: int
    vocabulary: int
    fed: int = 0

    def feed(self, tokens: Sequence[int], watch: Watch | None) -> Array | None:
        """Feed tokens; return their logits, (tokens, vocab), or None when the graph was stopped.

        Raises:
            CaptureError: when llama.cpp fails.
        """
        call = self.library.call
        batch = call("llama_batch_init", len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place] = token
            batch.pos[place] = self.fed + place
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = 0
            batch.logits[place] = 1
        status = call("llama_decode", self.pointer, batch)
        call("llama_batch_free", batch)
        if watch is not None and watch.error is not None:
            raise watch.error
        if status != 0:
            msg = f"llama.cpp could not run {len(tokens)} tokens: {self.library.why()}"
            raise CaptureError(msg)
        self.fed += len(tokens)
        if watch is not None and watch.is_stopped:
            return None
        logits = call("llama_get_logits", self.pointer)
        shape = (len(tokens), self.vocabulary)
        return np.array(np.ctypeslib.as_array(logits, shape))


@dataclass(kw_only=True)
class Eye:
    """What a context calls for every node: the watch of the step, or nobody."""

    watch: Watch | None = None

    def __call__(self, tensor: int, asks: bool, data: Any) -> bool:  # noqa: FBT001 - ggml's order
        """See ``Watch``."""
        return not asks if self.watch is None else self.watch(tensor, asks, data)


@contextmanager
def context(
    library: Library, model: int, parameters: Any, vocabulary: int, eye: Eye | None
) -> Iterator[Context]:
    """Give a context that is freed afterwards; without an eye it has no callback at all.

    Raises:
        CaptureError: when llama.cpp makes none, or not the one that was asked for.
    """
    callback = Callback(eye) if eye is not None else None
    parameters.cb_eval = ctypes.cast(callback, ctypes.c_void_p) if callback is not None else None
    pointer = library.call("llama_init_from_model", model, parameters)
    if not pointer:
        msg = f"llama.cpp makes no context: {library.why()}"
        raise CaptureError(msg)
    try:
        got = library.call("llama_n_ctx", pointer), library.call("llama_n_ubatch", pointer)
        if got != (parameters.n_ctx, parameters.n_ubatch):
            msg = f"llama.cpp made a context of {got[0]} tokens in batches of {got[1]}"
            raise CaptureError(msg, expected=f"{parameters.n_ctx} and {parameters.n_ubatch}")
        yield Context(library=library, pointer=pointer, vocabulary=vocabulary)
    finally:
        library.call("llama_free", pointer)


def layout_of_step(layout: Layout, sources: int) -> Layout:
    """Return how values lie when so many tokens are in the cache."""
    return replace(layout, sources=sources)
