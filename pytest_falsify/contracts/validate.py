"""What makes a contract executable: the schema, the vocabulary, and names that resolve."""

from __future__ import annotations

import difflib
import json
import math
import re
from typing import TYPE_CHECKING, Any

from pytest_falsify.contracts.entries import entries
from pytest_falsify.contracts.problems import Problem, nearest, one_of, raise_any
from pytest_falsify.contracts.schemas import contract_schema, shapes
from pytest_falsify.contracts.statuses import canonical_status
from pytest_falsify.errors import FalsifyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_falsify.contracts.entries import Entry
    from pytest_falsify.contracts.loader import Document
    from pytest_falsify.contracts.problems import Steps
    from pytest_falsify.contracts.vocabulary import Vocabulary

SELECTABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SECTIONS = frozenset({"targets", "captures", "inputs"})
EFFECTIVE = frozenset({"check", "targets", "require", "discharge", "inputs"})
CAPTURE_KEYS: tuple[Steps, ...] = (("subject",), ("oracle",), ("noise", "control"))


def validate(document: Document, vocabulary: Vocabulary) -> None:
    """Check a document that declares falsifiers.

    Args:
        document: a parsed contract.
        vocabulary: the checks, engines and stages that it may name.

    Raises:
        ContractError: with every mistake of one severity: the structure first, then the names.
    """
    raise_any(list(shapes(vocabulary).contract.violations(document.data)), document)
    raise_any(list(_misnamed(document, vocabulary)), document)


def _misnamed(document: Document, vocabulary: Vocabulary) -> Iterator[Problem]:
    data = document.data
    for name, capture in (data.get("captures") or {}).items():
        yield from _engine(("captures", name), capture, vocabulary)
    found = entries(data)
    yield from _near_misses(found, data)
    yield from _duplicates(found, document)
    yield from _no_targets(found, data, vocabulary)
    for entry in found:
        if data.get("targets") or "check" not in entry.body:
            yield from _dangling((*entry.at, "targets"), entry.body.get("targets"), data, "targets")
        yield from _not_finite(entry.body.get("discharge"), (*entry.at, "discharge"))
        if "check" in entry.body:
            yield from _executable(entry, data, vocabulary)


def _near_misses(found: Iterable[Entry], data: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield keys that nothing reads and that come close to one that has an effect.

    Prose has no such keys: only contracts of which something can be tried are looked at.
    """
    found = tuple(found)
    if not (data.keys() & SECTIONS or any("check" in each.body for each in found)):
        return
    schema = contract_schema()
    top = SECTIONS | {"require", "markers"}
    if "targets" not in data:
        top -= {"targets"}  # that they lack is told below, with the key that was meant
    yield from _near((), data, top, schema["properties"])
    known = schema["$defs"]["falsifier"]["properties"]
    for entry in found:
        yield from _near(entry.at, entry.body, EFFECTIVE, known)
        if canonical_status(str(entry.body.get("requires"))) is not None:
            yield _near_miss((*entry.at, "requires"), "require")


def _near(
    at: Steps, body: Mapping[str, Any], effective: frozenset[str], known: Mapping[str, Any]
) -> Iterator[Problem]:
    for key in body:
        close = difflib.get_close_matches(key, sorted(effective), n=1, cutoff=0.8)
        if close and key not in known:
            yield _near_miss((*at, key), close[0])


def _near_miss(at: Steps, meant: str) -> Problem:
    return Problem(
        at=at,
        what=f"unknown key `{at[-1]}`, which nothing reads",
        expected=f"`{meant}`, or a key that does not look like it",
        remedy=f"did you mean `{meant}`?",
    )


def _engine(at: Steps, capture: Mapping[str, Any], vocabulary: Vocabulary) -> Iterator[Problem]:
    name = capture["engine"]
    if name not in vocabulary.engines:
        yield _unknown("engine", (*at, "engine"), name, vocabulary.engines)
        return
    options = {key: value for key, value in capture.items() if key != "engine"}
    yield from shapes(vocabulary).engines[name].violations(options, at)
    yield from _not_finite(options, at)


def _duplicates(found: Iterable[Entry], document: Document) -> Iterator[Problem]:
    first: dict[str, Entry] = {}
    for entry in found:
        if entry.id in first:
            line = document.line(first[entry.id].at)
            yield Problem(
                at=entry.at,
                what=f"falsifier id `{entry.id}` stands twice (lines {line} and "
                f"{document.line(entry.at)})",
                expected="an id that no other falsifier of this contract has",
                remedy="give one of them another id",
            )
        first.setdefault(entry.id, entry)


def _no_targets(
    found: Iterable[Entry], data: Mapping[str, Any], vocabulary: Vocabulary
) -> Iterator[Problem]:
    checks = [entry for entry in found if "check" in entry.body]
    tried = [each for each in checks if each.body["check"]["kind"] not in vocabulary.hosted]
    if tried and not data.get("targets"):
        others = [key for key in data if key != "targets"]
        misspelt = difflib.get_close_matches("targets", others, n=1)
        yield Problem(
            at=(misspelt[0],) if misspelt else tried[0].at,
            what=f"`{tried[0].id}` has a check but the contract has no targets",
            expected="`targets` at the top of the contract: where its claims are tried",
            remedy=f"rename `{misspelt[0]}` to `targets`"
            if misspelt
            else "add, for example, `targets: {tiny: {model: ../models/tiny}}`",
        )


def _executable(entry: Entry, data: Mapping[str, Any], vocabulary: Vocabulary) -> Iterator[Problem]:
    if not SELECTABLE.fullmatch(entry.id):
        yield Problem(
            at=(*entry.at, "id"),
            what=f"pytest's command line cannot select the id `{entry.id}`",
            expected="letters, digits, `_`, `.` and `-`, beginning with a letter or digit",
            remedy=f"call it `{_selectable(entry.id)}`",
        )
    yield from _check((*entry.at, "check"), entry.body["check"], data, vocabulary)


def _selectable(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-_.") or "FALSIFY-001"


def _check(
    at: Steps, check: Mapping[str, Any], data: Mapping[str, Any], vocabulary: Vocabulary
) -> Iterator[Problem]:
    kind = check["kind"]
    if kind not in vocabulary.checks:
        yield _unknown("check kind", (*at, "kind"), kind, vocabulary.checks)
        return
    parameters = {key: value for key, value in check.items() if key != "kind"}
    yield from shapes(vocabulary).checks[kind].violations(parameters, at)
    yield from _not_finite(parameters, at)
    yield from _stages((*at, "stages"), check.get("stages"), vocabulary)
    yield from _layers((*at, "layers"), check.get("layers"))
    yield from _dangling((*at, "inputs"), check.get("inputs"), data, "inputs")
    for steps in CAPTURE_KEYS:
        yield from _dangling((*at, *steps), member(check, steps), data, "captures")
    yield from _same_captures(at, check, data)
    if kind in vocabulary.surveys:
        yield from _unlike_datasets((*at, "inputs"), check.get("inputs"), data)
    elif kind not in vocabulary.hosted:
        yield from _unfed(at, check.get("inputs"), data)


def _unlike_datasets(at: Steps, names: Any, data: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the inputs of a check of many prompts that are one prompt."""
    inputs = data.get("inputs") or {}
    for name in names if isinstance(names, list) else [names]:
        if name in inputs and "dataset" not in inputs[name]:
            yield Problem(
                at=at,
                what=f"the input `{name}` is one prompt",
                expected="inputs that are a `dataset:` of many",
            )


def _unfed(at: Steps, names: Any, data: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield why a check of single prompts has none."""
    inputs = data.get("inputs") or {}
    for name in names if isinstance(names, list) else [names]:
        if name in inputs and "dataset" in inputs[name]:
            yield Problem(
                at=(*at, "inputs"),
                what=f"the input `{name}` is a dataset, of which this kind of check sees nothing",
                expected="inputs that are one prompt, or the kind `rate`",
            )
    if names is None and all("dataset" in each for each in inputs.values()):
        yield Problem(
            at=at,
            what="the contract has no inputs, so nothing could be compared",
            expected="`inputs` at the top of the contract: what the model is fed",
            remedy='add, for example, `inputs: {prompt: {text: "What is 2+2?"}}`',
        )


def _same_captures(
    at: Steps, check: Mapping[str, Any], data: Mapping[str, Any]
) -> Iterator[Problem]:
    """Yield the captures of a check that mean the same: whatever is compared with itself agrees."""
    captures = data.get("captures") or {}
    seen: dict[str, str] = {}
    for steps in CAPTURE_KEYS:
        name = member(check, steps)
        meant = captures.get(name) if isinstance(name, str) else None
        if meant is None:
            continue
        role = steps[-1]
        first = seen.setdefault(json.dumps(meant, sort_keys=True, default=repr), str(role))
        if first != role:
            yield Problem(
                at=(*at, *steps),
                what=f"`{role}` and `{first}` are the same capture, which agrees with itself",
                expected="captures that differ in their engine or its options",
            )


def member(value: Any, steps: Steps) -> Any:
    """Return what stands at the end of a way through mappings, or None."""
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _dangling(at: Steps, names: Any, data: Mapping[str, Any], section: str) -> Iterator[Problem]:
    known = data.get(section) or {}
    if isinstance(names, str):
        names = [names] if names not in known else []
        places: list[Steps] = [at]
    else:
        names = names or []
        places = [(*at, position) for position in range(len(names))]
    for place, name in zip(places, names, strict=False):
        if name not in known:
            yield _unknown(section.removesuffix("s"), place, name, known)


def _stages(at: Steps, stages: Any, vocabulary: Vocabulary) -> Iterator[Problem]:
    if not isinstance(stages, list):
        return
    for position, name in enumerate(stages):
        try:
            vocabulary.stage(name)
        except FalsifyError as error:
            yield Problem(
                at=(*at, position),
                what=error.what,
                expected=error.expected or "a stage",
                remedy=error.remedy,
            )


def _layers(at: Steps, layers: Any) -> Iterator[Problem]:
    if isinstance(layers, str) and layers != "all":
        first, end = map(int, layers.split(".."))
        if first >= end:
            yield Problem(
                at=at,
                what=f"the range `{layers}` holds no layer",
                expected="`a..b` with a less than b; b itself is not in it",
                remedy=f"did you mean `{first}..{first + 1}`?",
            )


def _not_finite(value: Any, at: Steps) -> Iterator[Problem]:
    if isinstance(value, float) and not math.isfinite(value):
        yield Problem(at=at, what=f"`{value}` is not a finite number", expected="a finite number")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _not_finite(inner, (*at, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _not_finite(inner, (*at, position))


def _unknown(noun: str, at: Steps, name: Any, known: Iterable[str]) -> Problem:
    return Problem(
        at=at,
        what=f"unknown {noun} `{name}`",
        expected=one_of(known, f"no {noun} is defined"),
        remedy=nearest(name, known),
    )
