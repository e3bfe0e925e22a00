"""The dialects of the field, brought to the frozen objects of the model at this one door."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_falsify.contracts.entries import OLD_TESTS, TESTS, entries
from pytest_falsify.contracts.model import (
    CaptureSpec,
    CheckSpec,
    Contract,
    Equation,
    Falsifier,
    InputSpec,
    Level,
    Notice,
    Obligation,
    Target,
)
from pytest_falsify.contracts.schemas import contract_schema
from pytest_falsify.contracts.statuses import canonical_status
from pytest_falsify.contracts.texts import TEST, first_text, text, texts
from pytest_falsify.contracts.validate import SELECTABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_falsify.contracts.entries import Entry
    from pytest_falsify.contracts.loader import Document
    from pytest_falsify.contracts.problems import Steps
    from pytest_falsify.contracts.vocabulary import JsonSchema, Vocabulary

_NAMES = ("id", "contract_id", "contract", "name")
_RULE = ("rule", "description", "name", "condition", "invariant")
_PREDICTION = ("prediction", "expected", "expected_output", "assertion", "then")
_IF_FAILS = ("if_fails", "fails_if", "if_test_fails", "action")
_STATUS = ("status", "discharge_status")
_CITING = (
    "algorithm_evidence",
    "functional_evidence",
    "evidence_discharged_by",
    "site",
    "test_harness",
)
_EQUATION = frozenset({"formula", "invariants"})
_PROSE_IN_EVIDENCE = frozenset({"notes", "status", "last_verified", "invariants_enforced"})
# What these sections say is in objects of their own, nothing else of them is left to keep.
_SECTIONS = frozenset(
    {"proof_obligations", "targets", "captures", "inputs", "require", "markers", TESTS, OLD_TESTS}
)


def normalise(document: Document, vocabulary: Vocabulary) -> Contract:
    """Return the contract that a valid document declares.

    Args:
        document: a document that ``validate`` has accepted with the same vocabulary.
        vocabulary: gives the defaults that are left out and the canonical stage names.
    """
    data = document.data
    metadata = data.get("metadata") or {}
    return Contract(
        path=document.path,
        id=_contract_id(document, metadata),
        version=first_text({**data, **metadata}, ("version",)) or None,
        description=first_text({**data, **metadata}, ("description", "summary", "abstract")),
        claimed_status=first_text({**data, **metadata}, _STATUS) or None,
        require=_status(data.get("require")),
        markers=tuple(data.get("markers") or ()),
        equations=tuple(_equations(document)),
        obligations=tuple(_obligations(document)),
        targets=_targets(document),
        captures=_captures(document, vocabulary),
        inputs=_inputs(document),
        falsifiers=tuple(_falsifier(entry, document, vocabulary) for entry in entries(data)),
        extra=MappingProxyType({key: data[key] for key in data if key not in _SECTIONS}),
        notices=tuple(_notices(document)),
    )


def _contract_id(document: Document, metadata: Mapping[str, Any]) -> str:
    candidates = [metadata.get("id"), *(document.data.get(key) for key in _NAMES)]
    for name in candidates:
        if isinstance(name, str) and SELECTABLE.fullmatch(name):
            return name
    return document.path.stem


def _notices(document: Document) -> Iterator[Notice]:
    schema = contract_schema()
    top = [((key,), key) for key in document.data if key not in schema["properties"]]
    known = schema["$defs"]["falsifier"]["properties"]
    inner = [
        ((*entry.at, key), f"{entry.at[0]}[].{key}")
        for entry in entries(document.data)
        for key in entry.body
        if key not in known
    ]
    first = dict(reversed([(name, at) for at, name in (*top, *inner)]))
    if first:
        listed = ", ".join(f"`{name}`" for name in reversed(first))
        at = min(first.values(), key=document.line)
        yield Notice(at=at, line=document.line(at), text=f"keys that nothing reads: {listed}")


def _equations(document: Document) -> Iterator[Equation]:
    for name, at, body in _named(document.data.get("equations"), "equations", "equation"):
        formula = first_text(body, ("formula", "statement", "latex")) or None
        yield Equation(
            name=name,
            line=document.line(at),
            formula=formula,
            invariants=texts(body.get("invariants")),
            extra=MappingProxyType({key: body[key] for key in body if key not in _EQUATION}),
        )


def _named(value: Any, key: str, noun: str) -> Iterator[tuple[str, Steps, Mapping[str, Any]]]:
    if isinstance(value, dict):
        for name, body in value.items():
            yield name, (key, name), body if isinstance(body, dict) else {"formula": body}
    for position, body in enumerate(value if isinstance(value, list) else ()):
        mapping = body if isinstance(body, dict) else {"formula": body}
        name = first_text(mapping, ("id", "name")) or f"{noun}_{position + 1}"
        yield name, (key, position), mapping


def _obligations(document: Document) -> Iterator[Obligation]:
    taken = {"id", "type", "property", "statement", "formal", "verification", "tolerance"}
    for position, body in enumerate(document.data.get("proof_obligations") or ()):
        tolerance = body.get("tolerance")
        yield Obligation(
            line=document.line(("proof_obligations", position)),
            id=first_text(body, ("id",)) or None,
            kind=first_text(body, ("type",)) or None,
            property=first_text(body, ("property", "statement")) or None,
            formal=first_text(body, ("formal", "verification")) or None,
            tolerance=tolerance if isinstance(tolerance, (int, float, str)) else None,
            extra=MappingProxyType({key: body[key] for key in body if key not in taken}),
        )


def _targets(document: Document) -> Mapping[str, Target]:
    return {
        name: Target(
            **{
                **body,
                "name": name,
                "line": document.line(("targets", name)),
                "level": Level(body.get("level", "algorithm")),
                "markers": tuple(body.get("markers", ())),
            }
        )
        for name, body in (document.data.get("targets") or {}).items()
    }


def _captures(document: Document, vocabulary: Vocabulary) -> Mapping[str, CaptureSpec]:
    return {
        name: CaptureSpec(
            name=name,
            engine=body["engine"],
            line=document.line(("captures", name)),
            options=MappingProxyType(
                without_defaults(_but(body, "engine"), vocabulary.engines[body["engine"]])
            ),
        )
        for name, body in (document.data.get("captures") or {}).items()
    }


def _inputs(document: Document) -> Mapping[str, InputSpec]:
    return {
        name: InputSpec(
            name=name,
            line=document.line(("inputs", name)),
            text=body.get("text"),
            tokens=tuple(map(int, body["tokens"])) if "tokens" in body else None,
            file=body.get("file"),
            forced=tuple(map(int, body.get("forced", ()))),
            dataset=body.get("dataset"),
            field=body.get("field"),
            limit=body.get("limit"),
        )
        for name, body in (document.data.get("inputs") or {}).items()
    }


def _falsifier(entry: Entry, document: Document, vocabulary: Vocabulary) -> Falsifier:
    body = entry.body
    used = {key for keys in (_RULE, _PREDICTION, _IF_FAILS, TEST) for key in _used(body, keys)}
    used |= {"id", "binds_to", "targets", "require", "check", "discharge", *_used(body, _STATUS)}
    extra = {key: body[key] for key in body if key not in used}
    note = (document.data.get(OLD_TESTS) or {}) if entry.at[0] != OLD_TESTS else {}
    if isinstance(note, dict) and entry.id in note:
        extra[OLD_TESTS] = note[entry.id]
    return Falsifier(
        id=entry.id,
        line=document.line(entry.at),
        rule=first_text(body, _RULE),
        prediction=first_text(body, _PREDICTION),
        if_fails=first_text(body, _IF_FAILS),
        test=first_text(body, TEST) or None,
        binds_to=texts(body.get("binds_to")),
        targets=texts(body.get("targets")),
        require=_status(body.get("require")),
        check=_check(entry, document, vocabulary) if "check" in body else None,
        claimed_status=first_text(body, _STATUS) or None,
        discharge=MappingProxyType(body.get("discharge") or {}),
        cited=tuple(words for _, words in cited_in(body)),
        is_named=entry.is_named,
        extra=MappingProxyType(extra),
    )


def _used(body: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    return [key for key in keys if text(body.get(key))][:1]


def _check(entry: Entry, document: Document, vocabulary: Vocabulary) -> CheckSpec:
    body = entry.body["check"]
    schema = vocabulary.checks[body["kind"]]
    parameters = without_defaults(_but(body, "kind"), schema.get("properties", {}))
    if isinstance(parameters.get("stages"), list):
        parameters["stages"] = [vocabulary.stage(name) for name in parameters["stages"]]
    if isinstance(parameters.get("inputs"), str):
        parameters["inputs"] = [parameters["inputs"]]
    return CheckSpec(
        kind=body["kind"],
        line=document.line((*entry.at, "check")),
        parameters=MappingProxyType(parameters),
    )


def without_defaults(
    value: Mapping[str, Any], properties: Mapping[str, JsonSchema]
) -> dict[str, Any]:
    """Return a mapping without the members that only repeat their schema's default.

    So writing a default out, or leaving it out, is the same claim with the same digest.
    """
    kept = {}
    for key, inner in value.items():
        schema = properties.get(key, {})
        nested = schema.get("properties") if isinstance(schema, dict) else None
        clean = without_defaults(inner, nested) if nested and isinstance(inner, dict) else inner
        if not _is_default(clean, schema):
            kept[key] = clean
    return kept


def _is_default(value: Any, schema: JsonSchema) -> bool:
    if not isinstance(schema, dict) or "default" not in schema:
        return False
    default = schema["default"]
    return value == default and isinstance(value, bool) == isinstance(default, bool)


def cited_in(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what an entry cites as evidence, in any dialect: the key, and the words."""
    for key in _CITING:
        value = body.get(key)
        if isinstance(value, dict):
            value = [inner for name, inner in value.items() if name not in _PROSE_IN_EVIDENCE]
        for words in texts(value):
            yield key, words


def _but(body: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != key}


def _status(value: Any) -> str | None:
    return canonical_status(value) if isinstance(value, str) else None
