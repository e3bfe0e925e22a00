"""Where an exported ONNX graph shows each canonical stage.

The exporter of torch writes, with each node, the modules it was traced in
(``pkg.torch.onnx.name_scopes``). So a stage is found as in the model itself: as a module's output
or input, as one of the two sums of a layer, or, inside attention, beside the softmax.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.stages.vocabulary import STAGES, Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Array = np.ndarray[Any, Any]

SCOPES = "pkg.torch.onnx.name_scopes"
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)(?:\.(.+))?$")
_OUTPUTS = {
    "input_layernorm": "attn_norm",
    "self_attn.o_proj": "attn_out",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.act_fn": "ffn_silu",
    "mlp.down_proj": "ffn_out",
}
_INPUTS = {"self_attn.o_proj": "attention", "mlp.down_proj": "ffn_swigl"}
_OUTSIDE = {"embed_tokens": "embedding", "norm": "final_norm", "lm_head": "lm_head"}
_PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_RESIDUALS = ("post_attn_residual", "post_ffn_residual")
_MOVES = frozenset({"Transpose", "Reshape", "Expand", "Unsqueeze", "Squeeze", "Identity"})
"""Operations that put values elsewhere and leave them as they are."""
ON_REQUEST = ("qkv_matmul", "attn_scores", "attn_softmax")
HEADS_FIRST = frozenset({"q_post_rope", "k_post_rope"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """What shows a site: the names of values, side by side."""

    names: tuple[str, ...]

    def tensor(self, stage: str, found: Mapping[str, Array]) -> Array:
        """Return the values of a batch of one in the dims of the stage."""
        parts = [found[name][0] for name in self.names]
        if stage in HEADS_FIRST:
            return np.ascontiguousarray(parts[0].transpose(1, 0, 2))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


class Graph:
    """A graph as it was exported.

    Args:
        model: an ``onnx.ModelProto``; its weights need not be loaded.
    """

    def __init__(self, model: Any) -> None:
        self._nodes = list(model.graph.node)
        self._made_by = {name: node for node in self._nodes for name in node.output}
        self._groups: dict[str, list[Any]] = {}
        for node in self._nodes:
            self._groups.setdefault(_module(node), []).append(node)

    @cached_property
    def places(self) -> dict[Site, Value]:
        """The values that show each site of a prefill."""
        found: dict[Site, Value] = {}
        for module, nodes in self._groups.items():
            layer = _LAYER.search(module)
            if layer is None:
                stage = _OUTSIDE.get(module.rpartition(".")[2])
                if stage is not None:
                    found[Site(0, None, stage)] = _value(nodes[-1].output[0])
                continue
            for stage, value in self._of_layer(layer[2] or "", nodes):
                found[Site(0, int(layer[1]), stage)] = value
        found |= self._joined()
        return {site: found[site] for site in sorted(found, key=lambda site: site.causal_key)}

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that are shown, in execution order."""
        shown = {site.stage for site in self.places}
        return tuple(name for name in STAGES if name in shown)

    @property
    def layer_count(self) -> int:
        """The number of decoder layers."""
        return 1 + max((site.layer for site in self.places if site.layer is not None), default=-1)

    def _of_layer(self, module: str, nodes: Sequence[Any]) -> Iterator[tuple[str, Value]]:
        if module in _OUTPUTS:
            yield _OUTPUTS[module], _value(nodes[-1].output[0])
        product = next((node for node in nodes if node.op_type in {"MatMul", "Gemm"}), None)
        if module in _INPUTS and product is not None:
            yield _INPUTS[module], _value(product.input[0])
        if module == "":
            sums = [node for node in nodes if node.op_type == "Add"]
            if len(sums) == len(_RESIDUALS):
                for stage, node in zip(_RESIDUALS, sums, strict=True):
                    yield stage, _value(node.output[0])
        if module == "self_attn":
            yield from self._inside(nodes)

    def _inside(self, nodes: Sequence[Any]) -> Iterator[tuple[str, Value]]:
        """Yield what stands around the softmax: softmax(scale (q k) + mask)."""
        softmax = next((node for node in nodes if node.op_type == "Softmax"), None)
        masked = self._made_by.get(softmax.input[0]) if softmax is not None else None
        if softmax is None or masked is None or masked.op_type != "Add":
            return
        yield "attn_softmax", _value(softmax.output[0])
        yield "attn_scores", _value(masked.input[0])
        product = self._before(masked.input[0], "MatMul")
        if product is None:
            return
        for stage, name in zip(("q_post_rope", "k_post_rope"), product.input, strict=True):
            turned = self._before(name, "Add")
            if turned is not None:
                yield stage, _value(turned.output[0])

    def _before(self, name: str, operation: str) -> Any | None:
        """Return the nearest node of a kind before a value, with nothing but moves between."""
        node = self._made_by.get(name)
        passes = _MOVES | ({"Mul"} if operation == "MatMul" else set())
        while node is not None and node.op_type in passes:
            node = self._made_by.get(node.input[0])
        return node if node is not None and node.op_type == operation else None

    def _joined(self) -> dict[Site, Value]:
        """Return q, k and v side by side, without and with their bias."""
        found: dict[Site, Value] = {}
        prefixes = {
            module.removesuffix(_PROJECTIONS[0])
            for module in self._groups
            if module.endswith(_PROJECTIONS[0])
        }
        for prefix in prefixes:
            groups = [self._groups.get(prefix + each, []) for each in _PROJECTIONS]
            layer = _LAYER.search(prefix.rstrip("."))
            products = [[node for node in nodes if node.op_type == "MatMul"] for nodes in groups]
            if layer is None or not all(products):
                continue
            site = Site(0, int(layer[1]), "qkv_matmul")
            found[site] = _value(*(nodes[0].output[0] for nodes in products))
            if all(nodes[-1].op_type == "Add" for nodes in groups):
                biased = Site(0, int(layer[1]), "qkv_bias")
                found[biased] = _value(*(nodes[-1].output[0] for nodes in groups))
        return found


def _value(*names: str) -> Value:
    return Value(names=names)


def _module(node: Any) -> str:
    """Return the innermost module that a node was traced in; the last scope is the operation."""
    for each in node.metadata_props:
        if each.key == SCOPES:
            scopes = ast.literal_eval(each.value)
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""
