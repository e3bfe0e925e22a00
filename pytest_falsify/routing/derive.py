"""What is derived from routing: motifs, which experts act together, and whether that means much.

A derivation is a function of the raw run, its version and its configuration, and of nothing else:
whoever has them can make it again and see that it is the same.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.errors import CaptureError
from pytest_falsify.routing.coherence import (
    coherence,
    first_experts,
    information,
    joint_counts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from pytest_falsify.routing.trace import LayerRouting, Routing

    Array = NDArray[Any]

Json = dict[str, Any]

VERSION = "routing-motifs/v1"
EXACT, EXPERTS = "exact", "experts"


def derive(routing: Routing, config: str = EXPERTS) -> dict[str, Any]:
    """Return what is derived from a run, by the names of ``Documents``.

    A motif is an exact fingerprint: two tokens have one motif in a layer when their fingerprints
    are the same bytes, and one global motif when all their layers' are.

    Args:
        routing: the run.
        config: ``experts``: the fingerprint is the set of the experts; ``exact``: every logit, id
            and weight.

    Raises:
        CaptureError: for a configuration that there is not.
    """
    if config not in FINGERPRINTS:
        msg = f"there is no derivation `{config}`"
        raise CaptureError(msg, expected=f"one of {', '.join(FINGERPRINTS)}")
    print_of = FINGERPRINTS[config]
    indices = sorted(routing.layers)
    motifs = [numbered(print_of(routing.layers[index])) for index in indices]
    overall = numbered(np.stack(motifs, axis=1))
    head = {
        "run_id": routing.facts.run_id,
        "derivation_version": VERSION,
        "derivation_config_id": config,
    }
    return {
        "derived_events": _events(routing, indices, motifs, overall, head),
        "motif_ledger": {
            **head,
            "schema_version": "motif_ledger/v0.1.0-provisional",
            "ledger_payload": _ledger(routing, indices, motifs, overall),
        },
        "contingency": {
            **head,
            "schema_version": "contingency/v0.1.0-provisional",
            "contingency_payload": _contingency(routing, indices),
        },
    }


def verified(routing: Routing, derived: Mapping[str, Any]) -> str:
    """Return in words whether what was derived can be derived again.

    Raises:
        CaptureError: when it names this derivation and is not what it gives.
    """
    if not derived:
        return "nothing is derived"
    head = next(iter(derived.values()))
    head = head[0] if isinstance(head, list) else head
    version, config = head["derivation_version"], head["derivation_config_id"]
    if version != VERSION or config not in FINGERPRINTS:
        return f"derived by {version} ({config}), which cannot be made again here"
    again = derive(routing, config)
    for name, value in derived.items():
        if again[name] != value:
            msg = f"{name} is not what {version} ({config}) gives"
            raise CaptureError(msg, remedy="derive it again: pytest-falsify derive RUN")
    return f"derived by {version} ({config}): made again, and the same"


def numbered(rows: Array) -> Array:
    """Return (rows,) numbers: equal rows have one, in the order in which they first occur."""
    packed = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.strides[0])))[:, 0]
    _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return rank[inverse]


def _exact(layer: LayerRouting) -> Array:
    parts = (layer.logits, layer.indices.astype(np.int32), layer.weights)
    return np.concatenate(
        [np.ascontiguousarray(each).view(np.uint8).reshape(len(each), -1) for each in parts], axis=1
    )


def _experts(layer: LayerRouting) -> Array:
    return np.ascontiguousarray(np.sort(layer.indices.astype(np.int32), axis=1))


FINGERPRINTS: dict[str, Callable[[LayerRouting], Array]] = {EXACT: _exact, EXPERTS: _experts}


def _layer_motif(layer: int, number: int) -> str:
    return f"L{layer:02d}-{number:04d}"


def _events(
    routing: Routing, indices: list[int], motifs: list[Array], overall: Array, head: Json
) -> list[Json]:
    return [
        {
            **head,
            "event_type": "token_derived",
            "schema_version": "derived/v0.1.0-provisional",
            "token_index": routing.start + token,
            "derived_payload": {
                "global_motif": {"motif_id": f"G{int(overall[token]):04d}"},
                "layer_motifs": [
                    {"layer_index": layer, "motif_id": _layer_motif(layer, int(numbers[token]))}
                    for layer, numbers in zip(indices, motifs, strict=True)
                ],
            },
        }
        for token in range(len(routing.tokens))
    ]


def _ledger(routing: Routing, indices: list[int], motifs: list[Array], overall: Array) -> Json:
    return {
        "global_motifs": int(overall.max()) + 1,
        "layers": [
            {
                "layer_index": layer,
                "motifs": _counted(layer, routing.layers[layer], numbers, routing.start),
            }
            for layer, numbers in zip(indices, motifs, strict=True)
        ],
    }


def _counted(layer: int, routed: LayerRouting, numbers: Array, start: int) -> list[Json]:
    _, first, counts = np.unique(numbers, return_index=True, return_counts=True)
    return [
        {
            "motif_id": _layer_motif(layer, number),
            "count": int(count),
            "first_token": start + int(token),
            "experts": sorted(routed.indices[token].tolist()),
        }
        for number, (token, count) in enumerate(zip(first, counts, strict=True))
    ]


def _contingency(routing: Routing, indices: list[int]) -> Json:
    firsts = first_experts(routing)
    return {
        "co_activation": [
            {"layer_index": layer, "pairs": _together(routing.layers[layer])} for layer in indices
        ],
        "adjacent_layers": [
            {
                "layers": list(layers),
                "first_experts": [list(each) for each in joint_counts(a, b)],
                "information": information(a, b),
            }
            for layers, (a, b) in zip(pairwise(indices), pairwise(firsts), strict=True)
        ],
        "coherence": coherence(routing).to_json(),
    }


def _together(layer: LayerRouting) -> list[list[int]]:
    """Return which pairs of experts one token went to, and how many did: [a, b, count]."""
    found: Counter[tuple[int, int]] = Counter()
    for row in np.sort(layer.indices, axis=1).tolist():
        found.update((a, b) for place, a in enumerate(row) for b in row[place + 1 :])
    return [[a, b, count] for (a, b), count in sorted(found.items())]
