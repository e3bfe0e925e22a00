"""The map of a model's stages: where each is seen, what it is made of, and when it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.engines.attention import EAGER_ONLY, STAGES_INSIDE
from pytest_falsify.stages.graph import StageGraph
from pytest_falsify.stages.vocabulary import STAGES, Scope, Site
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_falsify.engines.visible import Visible

ALWAYS, ON_REQUEST, WITH_EAGER = "always", "on request", "on request, eager only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A stage, of the layers in which it is made in one way.

    Attributes:
        stage: its name.
        dims: its axes.
        layers: in which layers; None for a stage that belongs to no layer.
        seen: where it is observed.
        inputs: what it is immediately made of; None when that is not known.
        shown: when it is shown: always, on request, or with eager attention only.
    """

    stage: str
    dims: str
    layers: tuple[int, ...] | None
    seen: str
    inputs: tuple[str, ...] | None
    shown: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMap:
    """All stages of one model.

    Attributes:
        model_type: its name in transformers.
        is_known: whether its family is known.
        rows: its stages, in causal order.
        unmapped: the canonical stages that it does not have, or that nothing is known about.
        without_rows: of an unknown family, the modules that are no stages, because they do not show
            a row for each token once a pass.
    """

    model_type: str
    is_known: bool
    rows: tuple[Row, ...]
    unmapped: tuple[str, ...]
    without_rows: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Any, visible: Visible) -> StageMap:
        """Return the map of a model that may be without weights."""
        return cls(
            model_type=model.config.model_type,
            is_known=visible.is_known,
            rows=tuple(_known(model, visible) if visible.is_known else _modules(visible)),
            unmapped=visible.unmapped,
            without_rows=() if visible.is_known else tuple(_without_rows(model, visible)),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the map as a JSON value."""
        return {
            "model_type": self.model_type,
            "is_known": self.is_known,
            "stages": [
                {
                    "stage": row.stage,
                    "dims": row.dims,
                    "layers": None if row.layers is None else list(row.layers),
                    "seen": row.seen,
                    "inputs": None if row.inputs is None else list(row.inputs),
                    "shown": row.shown,
                }
                for row in self.rows
            ],
            "unmapped": list(self.unmapped),
            "without_rows": list(self.without_rows),
        }

    def lines(self) -> Iterator[str]:
        """Yield the map as people read it."""
        every = max((row.layers or () for row in self.rows), key=len, default=())
        stages = {row.stage for row in self.rows}
        yield f"{self.model_type}: {number_of(len(stages), 'stage')}"
        if not self.is_known:
            yield "  its family is not known: the stages are its modules, in the order they end"
        table: list[tuple[str, ...]] = [("stage", "dims", "layers", "seen", "made of", "shown")]
        table += [_cells(row, every) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for cells in table:
            padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            yield f"  {'  '.join(padded)}".rstrip()
        if self.unmapped:
            why = "does not have" if self.is_known else "could not be mapped"
            yield f"canonical stages that {'it ' if self.is_known else ''}{why}:"
            yield f"  {', '.join(self.unmapped)}"
        if self.without_rows:
            yield "modules that are no stages, having no row for each token once a pass:"
            yield f"  {', '.join(self.without_rows)}"


def _known(model: Any, visible: Visible) -> Iterator[Row]:
    graph = StageGraph.of(model)
    found: dict[tuple[str, tuple[str, ...]], list[Site]] = {}
    for site in graph.sites():
        found.setdefault((site.stage, graph.definition(site)), []).append(site)
    names = list(STAGES)
    for stage, inputs in sorted(found, key=lambda each: names.index(each[0])):
        sites = found[stage, inputs]
        in_layers = STAGES[stage].scope is Scope.LAYER
        yield Row(
            stage=stage,
            dims=STAGES[stage].dims,
            layers=tuple(site.layer or 0 for site in sites) if in_layers else None,
            seen=_seen(graph, stage),
            inputs=inputs,
            shown=_shown(stage, visible),
        )


def _shown(stage: str, visible: Visible) -> str:
    if stage in visible.always:
        return ALWAYS
    return WITH_EAGER if stage in EAGER_ONLY else ON_REQUEST


def _seen(graph: StageGraph, stage: str) -> str:
    tap = graph.family.taps.get(stage)
    if tap is not None:
        return str(tap)
    if stage in STAGES_INSIDE:
        return f"inside {graph.family.attention}"
    owner, _, first = graph.family.projections[0].rpartition(".")
    others = [name.rpartition(".")[2] for name in graph.family.projections[1:]]
    return f"{owner}.{'+'.join([first, *others])}"


def _modules(visible: Visible) -> Iterator[Row]:
    for stage in visible.always:
        yield Row(
            stage=stage,
            dims=STAGES[stage].dims,
            layers=None,
            seen=str(visible.family.taps[stage]),
            inputs=None,
            shown=ALWAYS,
        )


def _without_rows(model: Any, visible: Visible) -> Iterator[str]:
    """Yield the modules that compute something and are no stages."""
    import torch

    shown = {tap.module for tap in visible.family.taps.values()}
    for name, module in model.named_modules():
        is_container = isinstance(module, torch.nn.ModuleList | torch.nn.ModuleDict)
        if name and name not in shown and not is_container:
            yield name


def _cells(row: Row, every: tuple[int, ...]) -> tuple[str, ...]:
    made_of = "?" if row.inputs is None else ", ".join(row.inputs) or "tokens"
    return row.stage, row.dims, _layers(row.layers, every), row.seen, made_of, row.shown


def _layers(layers: tuple[int, ...] | None, every: tuple[int, ...]) -> str:
    if layers is None:
        return "-"
    return "all" if layers == every else ",".join(map(str, layers))
