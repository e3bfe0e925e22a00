"""Where a picture of a run puts each expert: a grid a layer, one layer above the other."""

from __future__ import annotations

import json
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_falsify.routing.trace import Routing


def grid_layout(routing: Routing) -> dict[str, Any]:
    """Return the layout of a run: square grids, rows first, with the layer's index as height."""
    return {
        "schema_version": "layout/v0.1.0",
        "run_id": routing.facts.run_id,
        "layout_id": "default-grid",
        "layout_kind": "layer-grid",
        "layers": [
            {"layer_index": index, "positions": _grid(each.experts, index)}
            for index, each in sorted(routing.layers.items())
        ],
    }


def layout_text(layout: dict[str, Any]) -> str:
    """Return a layout as it is written: one layer a line, since one expert a line is thousands."""
    rest = {name: value for name, value in layout.items() if name != "layers"}
    layers = ",\n".join(json.dumps(each, sort_keys=True) for each in layout["layers"])
    return f'{{"layers": [\n{layers}\n],\n{json.dumps(rest, sort_keys=True)[1:]}\n'


def grid_of(routing: Routing) -> dict[str, Any]:
    """Return the same as a rule, as ``routing/v1`` has it: how many experts stand in a row."""
    return {
        "run_id": routing.facts.run_id,
        "layout_id": "default-grid",
        "layout_kind": "layer-grid",
        "layers": [
            {"layer_index": index, "experts": each.experts, "columns": _columns(each.experts)}
            for index, each in sorted(routing.layers.items())
        ],
    }


def _columns(experts: int) -> int:
    return ceil(sqrt(experts))


def _grid(experts: int, layer: int) -> list[dict[str, float]]:
    columns = _columns(experts)
    return [
        {
            "expert_index": expert,
            "x": float(expert % columns),
            "y": float(expert // columns),
            "z": float(layer),
        }
        for expert in range(experts)
    ]
