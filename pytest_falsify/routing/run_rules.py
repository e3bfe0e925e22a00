"""What the documents of a run must say together: one run, one set of layers, tokens in order."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pytest_falsify.routing.issue import Issue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_falsify.routing.documents import Documents

Json = dict[str, Any]

VERSIONED = {
    "raw_events": "raw_event",
    "layout": "layout",
    "derived_events": "derived_event",
    "motif_ledger": "motif_ledger",
    "contingency": "contingency",
}
DERIVATIONS = ("derived_events", "motif_ledger", "contingency")


def _each(documents: Documents, name: str) -> Iterator[tuple[tuple[int, ...], Json]]:
    """Yield the objects of a document with the way to each."""
    value = getattr(documents, name)
    if isinstance(value, dict):
        yield (), value
    else:
        yield from (((index,), each) for index, each in enumerate(value or ()))


def versions(documents: Documents) -> Iterator[Issue]:
    """Every document has the schema version that the manifest states."""
    stated = documents.manifest["artifact_versions"]
    for name, word in VERSIONED.items():
        wanted = stated[f"{word}_schema_version"]
        for at, each in _each(documents, name):
            if each["schema_version"] != wanted:
                what = f"it is {each['schema_version']}, and the manifest states {wanted}"
                code = f"{word}_schema_version_mismatch"
                yield Issue(code=code, what=what, document=name, at=(*at, "schema_version"))


def run_ids(documents: Documents) -> Iterator[Issue]:
    """Every document is of the manifest's run."""
    wanted = documents.manifest["run_id"]
    for name in VERSIONED:
        for at, each in _each(documents, name):
            if each["run_id"] != wanted:
                what = f"it is of run {each['run_id']}, the manifest of {wanted}"
                yield Issue(code="run_id_mismatch", what=what, document=name, at=(*at, "run_id"))


def token_order(documents: Documents) -> Iterator[Issue]:
    """The events are there, one a token, in order, without a gap."""
    indices = [each["token_index"] for each in documents.raw_events]
    if not indices:
        yield Issue(code="raw_trace_empty", what="it has no event", document="raw_events")
    seen: set[int] = set()
    for place, index in enumerate(indices):
        if index in seen:
            yield _raw("duplicate_raw_token_index", f"token {index} is there twice", place)
        elif index != place:
            what = f"token {index} stands where token {place} belongs"
            yield _raw("raw_token_index_sequence_invalid", what, place)
        seen.add(index)


def layer_sets(documents: Documents) -> Iterator[Issue]:
    """Every token went through the same layers, each with as many experts for every token."""
    first = _shape(documents.raw_events[0]) if documents.raw_events else {}
    for place, event in enumerate(documents.raw_events):
        shape = _shape(event)
        if shape.keys() != first.keys():
            what = f"it has the layers {sorted(shape)}, the first token {sorted(first)}"
            yield _raw("raw_layer_set_inconsistent", what, place)
        for index in shape.keys() & first.keys():
            (total, active), (wanted, usual) = shape[index], first[index]
            if total != wanted:
                what = f"layer {index} has {total} experts, {wanted} at the first token"
                yield _raw("raw_layer_expert_count_inconsistent", what, place)
            elif active != usual:
                what = f"layer {index} sends to {active} experts, {usual} at the first token"
                yield _raw("raw_layer_active_count_inconsistent", what, place)


def time_and_context(documents: Documents) -> Iterator[Issue]:
    """Neither the clock nor the context runs backwards."""
    for place, (before, event) in enumerate(pairwise(documents.raw_events), start=1):
        for key in ("decode_start", "decode_end"):
            earlier, later = before["timing_ms"][key], event["timing_ms"][key]
            if later < earlier:
                what = f"{key} is {later:g}, {earlier:g} at the token before"
                yield _raw("decode_time_not_monotone", what, place)
        earlier, later = before["context_length"], event["context_length"]
        if later <= earlier:
            what = f"the context is {later}, {earlier} at the token before"
            yield _raw("context_length_not_monotone", what, place)


def layouts(documents: Documents) -> Iterator[Issue]:
    """The layout has a place for each expert of each traced layer, and for nothing else."""
    traced: dict[int, int] = {}
    for event in documents.raw_events:
        traced = {index: total for index, (total, _) in _shape(event).items()} | traced
    seen: dict[int, list[int]] = {}
    for place, layer in enumerate(documents.layout["layers"]):
        index = layer["layer_index"]
        experts = [each["expert_index"] for each in layer["positions"]]
        if index in seen:
            yield _layout("duplicate_layer_index", f"layer {index} is there twice", place)
        seen[index] = experts
        if len(set(experts)) != len(experts):
            yield _layout("duplicate_expert_index", f"layer {index} places one twice", place)
        yield from _placed(index, place, experts, traced)
    for index in sorted(traced.keys() - seen.keys()):
        what = f"layer {index} of the trace has no place"
        yield Issue(code="layout_expert_count_mismatch", what=what, document="layout")


def _placed(
    index: int, place: int, experts: Sequence[int], traced: dict[int, int]
) -> Iterator[Issue]:
    total = traced.get(index)
    if total is None and traced:
        yield _layout("layout_layer_not_traced", f"layer {index} is not in the trace", place)
    elif total is not None and len(experts) != total:
        what = f"layer {index} places {len(experts)} of {total} experts"
        yield _layout("layout_expert_count_mismatch", what, place)
    elif total is not None and set(experts) != set(range(total)):
        what = f"layer {index} does not place the experts 0..{total - 1}"
        yield _layout("layout_expert_index_set_mismatch", what, place)


def derivations(documents: Documents) -> Iterator[Issue]:
    """What is derived names the manifest's derivation, and tokens that there are."""
    for name in DERIVATIONS:
        for at, each in _each(documents, name):
            for key, code in (
                ("derivation_version", "derivation_version_mismatch"),
                ("derivation_config_id", "derivation_config_mismatch"),
            ):
                wanted = documents.manifest[key]
                if each[key] != wanted:
                    what = f"it is {each[key]}, and the manifest states {wanted}"
                    yield Issue(code=code, what=what, document=name, at=(*at, key))
    known = {each["token_index"] for each in documents.raw_events}
    seen: set[int] = set()
    for place, event in enumerate(documents.derived_events or ()):
        index = event["token_index"]
        if index in seen:
            yield _derived("duplicate_derived_token_index", f"token {index} is twice", place)
        if index not in known:
            what = f"token {index} is not in the trace"
            yield _derived("derived_token_index_missing_from_raw", what, place)
        seen.add(index)


RUN_RULES: tuple[Callable[[Documents], Iterator[Issue]], ...] = (
    versions,
    run_ids,
    token_order,
    layer_sets,
    time_and_context,
    layouts,
    derivations,
)


def _shape(event: Json) -> dict[int, tuple[int, int]]:
    """Return total and active experts by layer."""
    return {
        each["layer_index"]: (each["num_total_experts"], each["num_active_experts"])
        for each in event["layers"]
    }


def _raw(code: str, what: str, place: int) -> Issue:
    return Issue(code=code, what=what, document="raw_events", at=(place,))


def _derived(code: str, what: str, place: int) -> Issue:
    return Issue(code=code, what=what, document="derived_events", at=(place,))


def _layout(code: str, what: str, place: int) -> Issue:
    return Issue(code=code, what=what, document="layout", at=("layers", place))
