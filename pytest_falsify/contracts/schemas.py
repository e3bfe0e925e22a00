"""The schemas that contracts are held against: the shipped one, and those of the vocabulary."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from functools import cache, cached_property, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import jsonschema_rs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_falsify.contracts.problems import Problem, Steps
    from pytest_falsify.contracts.vocabulary import JsonSchema, Vocabulary


@cache
def contract_schema() -> dict[str, Any]:
    """Return the JSON Schema of a contract that ships with the package."""
    file = resources.files("pytest_falsify.contracts") / "schema" / "contract-v1.schema.json"
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema


class Shape:
    """A schema that decides fast and explains slowly.

    Args:
        schema: JSON Schema, draft 2020-12.
        is_typed: it has a type wherever it has a bound. To the fast validator a number that is not
            finite has no type, and keeps any bound; without this each value is searched for one.
    """

    def __init__(self, schema: JsonSchema, *, is_typed: bool = False) -> None:
        self.schema = dict(schema)
        self._is_typed = is_typed

    @cached_property
    def _validator(self) -> jsonschema_rs.Draft202012Validator:
        return jsonschema_rs.Draft202012Validator(self.schema)

    def _fits(self, value: Any) -> bool:
        try:
            return self._validator.is_valid(value) and (self._is_typed or _is_finite(value))
        except ValueError:  # not a JSON value: the explanation will say which
            return False

    def violations(self, value: Any, at: Steps = ()) -> Iterator[Problem]:
        """Yield what does not fit, in words.

        Args:
            value: the value on trial.
            at: where it stands in its document.
        """
        if self._fits(value):
            return
        from jsonschema import Draft202012Validator

        from pytest_falsify.contracts.explain import explain

        for error in Draft202012Validator(self.schema).iter_errors(value):
            yield from explain(error, at)


class Shapes:
    """Everything that a contract may contain under one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.contract = Shape(contract_schema(), is_typed=True)
        self.checks = {kind: Shape(_closed(each)) for kind, each in vocabulary.checks.items()}
        self.engines = {
            name: Shape(_closed({"properties": dict(options)}))
            for name, options in vocabulary.engines.items()
        }


@lru_cache(maxsize=4)
def shapes(vocabulary: Vocabulary) -> Shapes:
    """Return the compiled schemas of a vocabulary."""
    return Shapes(vocabulary)


def full_schema(vocabulary: Vocabulary) -> Mapping[str, Any]:
    """Return one schema that also knows the check kinds and engines that are installed.

    Editors that are given it complete the parameters of each kind and the options of each engine.
    """
    schema: dict[str, Any] = deepcopy(contract_schema())
    known = shapes(vocabulary)
    for name, key, found in (
        ("check", "kind", known.checks),
        ("capture", "engine", known.engines),
    ):
        part = schema["$defs"][name]
        part["properties"][key]["enum"] = sorted(found)
        part["allOf"] = [_when(key, word, shape.schema) for word, shape in sorted(found.items())]
    return schema


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list) or all(map(_is_finite, value))


def _when(key: str, word: str, schema: JsonSchema) -> dict[str, Any]:
    properties = {**schema.get("properties", {}), key: True}
    return {
        "if": {"properties": {key: {"const": word}}, "required": [key]},
        "then": {**schema, "properties": properties},
    }


def _closed(schema: JsonSchema) -> JsonSchema:
    return {"type": "object", "additionalProperties": False, **schema}
