"""What is in a routing run, for people and for programs; and how two of them differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.routing.derive import verified
from pytest_falsify.routing.difference import Kind
from pytest_falsify.routing.event_rules import entropy_of
from pytest_falsify.routing.gate import softmax
from pytest_falsify.routing.objections import measures, objections, told
from pytest_falsify.routing.recompute import disagreement
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_falsify.routing.difference import RoutingDifference
    from pytest_falsify.routing.run import Run
    from pytest_falsify.routing.trace import LayerRouting

_MOST_CHANGES = 10


def routing_json(run: Run) -> dict[str, Any]:
    """Return what a program reads."""
    routing, facts = run.routing, run.routing.facts
    return {
        "profile": run.profile,
        "bundle_kind": run.manifest.get("bundle_kind", "full_run"),
        "run_id": facts.run_id,
        "created_at": facts.created_at,
        "model_id": facts.model_id,
        "tokenizer_id": facts.tokenizer_id,
        "prompt_text": facts.prompt,
        "seed": facts.seed,
        "generation_config": dict(facts.generation),
        "capture_config": dict(facts.capture),
        "token_span": [routing.start, routing.start + len(routing.tokens)],
        "layers": [_layer(index, each) for index, each in sorted(routing.layers.items())],
        "raw_events": len(routing.tokens),
        "layer_expert_counts": [
            {"layer_index": index, "num_total_experts": each.experts}
            for index, each in sorted(routing.layers.items())
        ],
        "optional_artifacts": {
            "derived": "derived_events" in run.derived,
            "motif_ledger": "motif_ledger" in run.derived,
            "contingency": "contingency" in run.derived,
        },
        "derivation": verified(routing, run.derived),
        "decode_duration_ms": _durations(run),
    }


def routing_lines(run: Run) -> list[str]:
    """Return what a person reads: provenance, then one line a layer."""
    found = routing_json(run)
    first, end = found["token_span"]
    gates = dict.fromkeys(each["gate"] for each in found["layers"])
    others = sum(each["not_the_gates"] for each in found["layers"])
    times = f"{number_of(others, 'time')} not" if others else "everywhere"
    capture = found["capture_config"]
    facts = {
        "profile": f"{found['profile']}, {found['bundle_kind']}",
        "run": f"{found['run_id']}, {found['created_at']}",
        "model": found["model_id"],
        "tokenizer": found["tokenizer_id"],
        **{name: _words(value) for name, value in sorted(capture.items())},
        "prompt": repr(found["prompt_text"]),
        "tokens": f"{end - first}: {first}..{end}",
        "gate": "; ".join(gates),
        "choices": f"{times} what the gate makes of the logits",
        "derived": found["derivation"],
    }  # fmt: skip
    lines = [str(run.folder), *(f"  {name + ':':<10} {value}" for name, value in facts.items()), ""]
    return [*lines, *_table(found["layers"])]


def difference_json(found: RoutingDifference) -> dict[str, Any]:
    """Return what a program reads of a comparison."""
    return {
        "tokens": found.tokens,
        "diverged_at": found.diverged_at,
        "objections": objections(found),
        "measures": measures(found),
        "ratio": {str(index): each.ratio for index, each in found.layers.items()},
        "changes": [
            {
                "token": each.token,
                "layer": each.layer,
                "kind": each.kind.value,
                "left_out": list(each.left_out),
                "taken": list(each.taken),
                "margin": str(each.margin) if np.isinf(each.margin) else each.margin,
                "allowance": each.allowance,
            }
            for each in found.changes
        ],
    }


def difference_lines(found: RoutingDifference) -> list[str]:
    """Return what a person reads of a comparison: the conclusion first."""
    counts = ", ".join(f"{len(found.of(kind))} {kind.value}" for kind in Kind)
    against = objections(found)
    lines = [f"{number_of(found.tokens, 'token')} compared; choices that changed: {counts}"]
    if found.diverged_at is not None:
        lines.append(f"  the runs were fed the same tokens up to {found.diverged_at}")
    lines += [f"  objection: {each}" for each in against]
    worst = measures(found)
    lines += [
        f"  {name}: " + ", ".join(f"{side} {value:.3g}" for side, value in sides.items())
        for name, sides in worst.items()
    ]
    shown = found.changes[:_MOST_CHANGES]
    lines += [f"  {each.kind.value}: {told(each)}" for each in shown]
    if len(found.changes) > len(shown):
        lines.append(f"  and {len(found.changes) - len(shown)} more")
    return lines


def _words(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={each}" for key, each in sorted(value.items()))
    return str(value)


def _layer(index: int, layer: LayerRouting) -> dict[str, Any]:
    entropy, normalised = entropy_of(softmax(layer.logits))
    load = layer.load()
    return {
        "layer_index": index,
        "num_total_experts": layer.experts,
        "num_active_experts": layer.active,
        "gate": str(layer.gate),
        "entropy": float(entropy.mean()),
        "normalized_entropy": float(normalised.mean()),
        "load": load.tolist(),
        "dropped": layer.dropped(),
        "not_the_gates": len(disagreement(layer).rows),
    }


def _durations(run: Run) -> dict[str, float] | None:
    lasted = run.routing.tokens.ends - run.routing.tokens.starts
    if not lasted.any():
        return None
    return {"min": float(lasted.min()), "max": float(lasted.max()), "avg": float(lasted.mean())}


def _table(layers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    heads = ("layer", "experts", "active", "entropy", "of most", "idle", "busiest", "share", "drop")
    rows = [heads, *(_row(each) for each in layers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  " + "  ".join(cells)


def _row(layer: Mapping[str, Any]) -> tuple[str, ...]:
    load = np.array(layer["load"])
    busiest = int(load.argmax())
    return (
        str(layer["layer_index"]),
        str(layer["num_total_experts"]),
        str(layer["num_active_experts"]),
        f"{layer['entropy']:.3f}",
        f"{layer['normalized_entropy']:.1%}",
        str(int((load == 0).sum())),
        str(busiest),
        f"{load[busiest] / max(int(load.sum()), 1):.1%}",
        str(layer["dropped"]),
    )
