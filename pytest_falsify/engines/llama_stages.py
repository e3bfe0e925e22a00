"""Where llama.cpp's graph shows each canonical stage, and how its values lie.

A node is known by its name, its operation and how often the pair was seen before: ``Qcur-0`` is a
matrix product, a sum with the bias, a reshape and a rotation. Shapes come with the fastest axis
first; rotary embedding turns neighbouring channels where the architecture is Llama's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.stages.vocabulary import STAGES, Scope, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Array = np.ndarray[Any, Any]

FUSED = ("qkv_matmul", "qkv_bias")
INSIDE = ("attn_scores", "attn_softmax")
PRODUCT = "MUL_MAT"
_NAME = re.compile(r"(\w+)-(\d+)")
_UNNAMED = re.compile(r"node_\d+")
_NODES: Mapping[tuple[str, str], str] = {
    ("embd", "GET_ROWS"): "embedding",
    ("attn_norm", "MUL"): "attn_norm",
    ("Qcur", "ROPE"): "q_post_rope",
    ("Kcur", "ROPE"): "k_post_rope",
    ("kq", "MUL_MAT"): "attn_scores",
    ("kq_soft_max", "SOFT_MAX"): "attn_softmax",
    ("kqv_out", "CONT"): "attention",
    ("kqv_out", "RESHAPE"): "attention",
    ("attn_out", "MUL_MAT"): "attn_out",
    ("ffn_inp", "ADD"): "post_attn_residual",
    ("ffn_norm", "MUL"): "ffn_norm",
    ("ffn_gate", "MUL_MAT"): "ffn_gate",
    ("ffn_up", "MUL_MAT"): "ffn_up",
    ("ffn_swiglu", "SWIGLU"): "ffn_swigl",
    ("ffn_out", "MUL_MAT"): "ffn_out",
    ("l_out", "ADD"): "post_ffn_residual",
    ("result_norm", "MUL"): "final_norm",
    ("result_output", "MUL_MAT"): "lm_head",
}
_PARTS: Mapping[tuple[str, str], tuple[str, int]] = {
    (name, operation): (stage, part)
    for part, name in enumerate(("Qcur", "Kcur", "Vcur"))
    for operation, stage in (("MUL_MAT", "qkv_matmul"), ("ADD", "qkv_bias"))
}
ALWAYS = tuple(name for name in STAGES if name in {*_NODES.values(), *FUSED} - {*INSIDE})


@dataclass(frozen=True, slots=True)
class Place:
    """What a node shows: a site, and which of the parts side by side it is."""

    site: Site
    part: int = 0
    parts: int = 1


def place_of(name: str, operation: str, step: int) -> Place | None:
    """Return what a node of the graph shows, or None when it shows no canonical stage."""
    match = _NAME.fullmatch(name)
    base, layer = (match[1], int(match[2])) if match else (name, None)
    stage, part, parts = _NODES.get((base, operation)), 0, 1
    if stage is None:
        if (base, operation) not in _PARTS:
            return None
        (stage, part), parts = _PARTS[base, operation], 3
    if (STAGES[stage].scope is Scope.LAYER) != (layer is not None):
        return None
    return Place(Site(step, layer, stage), part, parts)


class Nodes:
    """The nodes of one step, told apart in the order in which the graph has them.

    Of nodes with the same name and operation the first is the stage; what follows are copies. Some
    graphs leave the product with the output weights without a name: it is the first product after
    the heads were put side by side.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self._seen: set[tuple[str, str]] = set()
        self._projects: int | None = None

    def place(self, name: str, operation: str) -> Place | None:
        """Return what the next node shows, or None."""
        if operation == PRODUCT and _UNNAMED.fullmatch(name) and self._projects is not None:
            layer, self._projects = self._projects, None
            return Place(Site(self._step, layer, "attn_out"))
        if (name, operation) in self._seen:
            return None
        place = place_of(name, operation, self._step)
        if place is not None:
            self._seen.add((name, operation))
            if place.site.stage in {"attention", "attn_out"}:
                is_next = place.site.stage == "attention"
                self._projects = place.site.layer if is_next else None
        return place


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the values of one model lie.

    Attributes:
        heads: query heads.
        key_heads: key and value heads.
        head: channels of a head.
        is_interleaved: neighbouring channels are rotated, so q and k lie in another order.
        sources: the tokens in the cache, those of this step included; what follows is padding.
    """

    heads: int
    key_heads: int
    head: int
    is_interleaved: bool
    sources: int

    def turned(self, place: Place, array: Array) -> Array:
        """Return the values of a node in the dims of its stage.

        Args:
            place: what the node shows.
            array: as the graph has it, the slowest of its four axes first.
        """
        stage = place.site.stage
        turn = _TURNS.get(stage)
        if turn is not None:
            return turn(self, array)
        rows = array.reshape(-1, array.shape[-1])
        if stage in FUSED:
            return self._part(rows, place.part)
        return rows

    def _part(self, rows: Array, part: int) -> Array:
        """Return q, k or v of (tokens, channels), its heads' channels in the usual order."""
        is_value = part == 2  # noqa: PLR2004 - q, k, v
        if is_value or not self.is_interleaved:
            return rows
        return self._half_split(rows.reshape(len(rows), -1, self.head)).reshape(len(rows), -1)

    def _half_split(self, heads: Array) -> Array:
        """Return (tokens, heads, channels), the first of each rotated pair before the second."""
        pairs = heads.reshape(*heads.shape[:-1], self.head // 2, 2)
        return np.ascontiguousarray(pairs.swapaxes(-1, -2)).reshape(heads.shape)

    def rotated(self, array: Array) -> Array:
        """Return (1, tokens, heads, channels) after the rotary embedding in the usual order."""
        return self._half_split(array[0]) if self.is_interleaved else array[0]

    def scaled(self, array: Array) -> Array:
        """Return (1, heads, tokens, padded sources) of raw products as scaled scores."""
        return self.weights(array) * np.float32(1 / np.sqrt(self.head))

    def weights(self, array: Array) -> Array:
        """Return (1, heads, tokens, padded sources) without the padding."""
        return np.ascontiguousarray(array[0, :, :, : self.sources])


_TURNS: Mapping[str, Callable[[Layout, Array], Array]] = {
    "q_post_rope": Layout.rotated,
    "k_post_rope": Layout.rotated,
    "attn_scores": Layout.scaled,
    "attn_softmax": Layout.weights,
}
