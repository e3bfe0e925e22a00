"""Schema violations said in words that a writer of contracts can act on."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from jsonschema.exceptions import best_match

from pytest_falsify.contracts.problems import Problem, nearest, one_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jsonschema import ValidationError

    from pytest_falsify.contracts.problems import Steps

_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a string",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "nothing",
}
_LONGEST = 80


def explain(error: ValidationError, prefix: Steps = ()) -> Iterator[Problem]:
    """Yield the problems that one violation stands for, at the most specific place.

    Args:
        error: what jsonschema reported.
        prefix: where the validated value stands in the document.
    """
    error = _most_specific(error)
    at = (*prefix, *error.absolute_path)
    match error.validator:
        case "additionalProperties" | "unevaluatedProperties":
            yield from _unknown_keys(error, at)
        case "required" | "dependentRequired":
            yield from _missing_keys(error, at)
        case "minProperties" | "maxProperties":
            yield _wrong_count(error, at)
        case "anyOf" if keys := _any_of_keys(error):
            yield _none_of(keys, at)
        case "propertyNames" | "pattern" | "enum" | "const" if _is_key(error):
            yield _wrong_name(error, (*at, str(error.instance)))
        case _:
            yield _wrong_value(error, at)


def spelled(value: Any) -> str:
    """Return a value as it is written, shortened."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _most_specific(error: ValidationError) -> ValidationError:
    if not error.context:
        return error
    inner = best_match([error])
    is_deeper = inner is not None and len(inner.absolute_path) > len(error.absolute_path)
    return inner if inner is not None and is_deeper else error


def _properties(error: ValidationError) -> dict[str, Any]:
    schema: Any = error.schema
    properties: dict[str, Any] = schema.get("properties", {})
    return properties


def _is_key(error: ValidationError) -> bool:
    return "propertyNames" in error.absolute_schema_path


def _unknown_keys(error: ValidationError, at: Steps) -> Iterator[Problem]:
    allowed = _properties(error)
    instance: Any = error.instance
    for key in instance:
        if key not in allowed:
            yield Problem(
                at=(*at, key),
                what=f"unknown key `{key}`",
                expected=one_of(allowed, "no key"),
                remedy=nearest(key, allowed),
            )


def _missing_keys(error: ValidationError, at: Steps) -> Iterator[Problem]:
    wanted: Any = error.validator_value
    instance: Any = error.instance
    if isinstance(wanted, dict):
        wanted = [name for key, names in wanted.items() if key in instance for name in names]
    misspelt = _misspelt(error)
    for key in wanted:
        if key not in instance and key not in misspelt:
            schema = _properties(error).get(key, {})
            yield Problem(
                at=at,
                what=f"`{key}` is missing",
                expected=f"`{key}`: {_expectation(schema)}" if schema else f"a key `{key}`",
                remedy=f"add `{key}:`",
            )


def _any_of_keys(error: ValidationError) -> list[str]:
    """The keys of which one has to be there, where that is what the schema asks for."""
    choices: Any = error.validator_value
    if not all(isinstance(each, dict) and each.keys() == {"required"} for each in choices):
        return []
    return [name for each in choices for name in each["required"]]


def _none_of(keys: list[str], at: Steps) -> Problem:
    names = " or ".join(f"`{each}`" for each in keys)
    return Problem(
        at=at,
        what=f"`{_subject(at)}` has no {names}",
        expected=f"{names}, or both",
        remedy=f"add {' or '.join(f'`{each}:`' for each in keys)}",
    )


def _misspelt(error: ValidationError) -> set[str]:
    """Return the missing keys that an unknown key comes close to: that one is reported instead."""
    schema: Any = error.schema
    if schema.get("additionalProperties") is not False:
        return set()
    instance: Any = error.instance
    allowed = _properties(error)
    unknown = [name for name in instance if name not in allowed]
    return {close for name in unknown for close in get_close_matches(name, allowed, n=1)}


def _wrong_count(error: ValidationError, at: Steps) -> Problem:
    instance: Any = error.instance
    keys = ", ".join(f"`{key}`" for key in instance)
    what = f"has {keys} together" if keys else "is empty"
    return Problem(at=at, what=f"`{at[-1]}` {what}", expected=_expectation(error.schema))


def _wrong_name(error: ValidationError, at: Steps) -> Problem:
    what = f"`{spelled(error.instance)}` cannot be a name here"
    return Problem(at=at, what=what, expected=_expectation(error.schema))


def _wrong_value(error: ValidationError, at: Steps) -> Problem:
    allowed: Any = error.validator_value if error.validator == "enum" else ()
    what = f"`{spelled(error.instance)}` is not what `{_subject(at)}` can be"
    if error.validator == "type":
        what = f"`{_subject(at)}` is {_kind(error.instance)}"
    remedy = nearest(error.instance, map(str, allowed))
    return Problem(at=at, what=what, expected=_expectation(error.schema), remedy=remedy)


def _subject(at: Steps) -> str:
    named = [step for step in at if isinstance(step, str)]
    return named[-1] if named else "the document"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return f"a truth value ({str(value).lower()})"
        case int() | float():
            return f"a number ({value})"
        case str():
            return f"a string (`{spelled(value)}`)"
        case dict():
            return "a mapping"
        case _:
            return "a list"


def _expectation(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "a value"
    if "description" in schema:
        return str(schema["description"])
    if "enum" in schema:
        return one_of(map(spelled, schema["enum"]))
    if "const" in schema:
        return spelled(schema["const"])
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(_expectation(each) for each in schema[choice])
    types = schema.get("type", [])
    names = [types] if isinstance(types, str) else types
    kinds = " or ".join(_TYPES[name] for name in names) or "a value"
    return kinds + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "greater than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
        "minLength": "of a length of at least",
        "minItems": "of at least",
        "pattern": "matching",
    }
    return "".join(f", {word} {schema[key]}" for key, word in words.items() if key in schema)
