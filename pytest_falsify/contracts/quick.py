"""Yes or no to "does this value fit this schema", compiled once and fast.

jsonschema explains well and slowly: validating a good contract by it costs three times its parsing.
So a schema is compiled to nested functions that only decide, and jsonschema is asked for the
reasons when they say no. A schema with a keyword that is not known here is not compiled, and then
jsonschema decides alone. Both agree on every value: a property test holds them together.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sized

    Test = Callable[[Any], bool]

_ANNOTATIONS = frozenset(
    ("$schema", "$id", "$defs", "$comment", "title", "description", "default", "examples", "format")
)


class UnknownKeywordError(Exception):
    """A schema uses a keyword that only jsonschema knows."""


def compiled(schema: Mapping[str, Any]) -> Test:
    """Return a function that tells whether a value fits a schema.

    Args:
        schema: JSON Schema, draft 2020-12, with references to its own ``$defs`` only.

    Raises:
        UnknownKeywordError: when it cannot be compiled.
    """
    return _Compiler(schema).test(schema)


def same(one: Any, other: Any) -> bool:
    """Tell whether two JSON values are equal; ``true`` is not 1, but 1.0 is."""
    return bool(_frozen(one) == _frozen(other))


def _frozen(value: Any) -> Any:
    """Return a hashable stand-in that is equal exactly for equal JSON values."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return ("dict", frozenset((key, _frozen(inner)) for key, inner in value.items()))
    if isinstance(value, list):
        return ("list", tuple(map(_frozen, value)))
    return value


class _Compiler:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.references: dict[str, Test] = {}

    def test(self, schema: Any) -> Test:
        """Compile one schema to the conjunction of its keywords."""
        if isinstance(schema, bool):
            return lambda _: schema
        tests = [
            self.keyword(name, schema)
            for name in schema
            if name not in _ANNOTATIONS and name not in _COMPANIONS
        ]
        if _COMPANIONS & schema.keys() and "if" not in schema:
            msg = "`then` without `if`"
            raise UnknownKeywordError(msg)
        return _all_of(tests)

    def keyword(self, name: str, schema: Mapping[str, Any]) -> Test:
        """Compile one keyword of a schema."""
        if name in _SCALARS:
            return _SCALARS[name](schema[name])
        if name in _COMBINATIONS:
            return _COMBINATIONS[name]([self.test(each) for each in schema[name]])
        if name in _NESTED:
            return _NESTED[name](self.test(schema[name]))
        if name == "$ref":
            return self.reference(schema[name])
        return self.object_keyword(name, schema)

    def object_keyword(self, name: str, schema: Mapping[str, Any]) -> Test:
        """Compile one keyword whose meaning depends on those beside it."""
        match name:
            case "properties":
                return self.properties(schema[name])
            case "additionalProperties":
                return self.additional(schema[name], schema)
            case "items" if "prefixItems" not in schema:
                return _for_lists(self.test(schema[name]))
            case "if":
                return self.condition(schema)
        raise UnknownKeywordError(name)

    def reference(self, name: str) -> Test:
        """Compile what a reference leads to, once; a schema may refer to itself."""
        if name not in self.references:
            prefix, _, key = name.rpartition("/")
            if prefix != "#/$defs" or key not in self.root.get("$defs", {}):
                raise UnknownKeywordError(name)
            later = _Later()
            self.references[name] = later
            later.test = self.test(self.root["$defs"][key])
        return self.references[name]

    def properties(self, schemas: Mapping[str, Any]) -> Test:
        """Compile the schemas of named members."""
        tests = {key: self.test(each) for key, each in schemas.items() if each is not True}
        known = tests.keys()

        def check(it: Any) -> bool:
            return not isinstance(it, dict) or all(
                tests[key](it[key]) for key in it if key in known
            )

        return check

    def additional(self, schema: Any, around: Mapping[str, Any]) -> Test:
        """Compile the schema of all members that have no name of their own."""
        if "patternProperties" in around:
            msg = "patternProperties"
            raise UnknownKeywordError(msg)
        known = frozenset(around.get("properties", ()))
        if schema is False:
            return lambda it: not isinstance(it, dict) or it.keys() <= known
        inner = self.test(schema)
        return lambda it: (
            not isinstance(it, dict) or all(inner(it[key]) for key in it if key not in known)
        )

    def condition(self, schema: Mapping[str, Any]) -> Test:
        """Compile ``if`` with its ``then`` and ``else``."""
        when = self.test(schema["if"])
        then = self.test(schema.get("then", True))
        otherwise = self.test(schema.get("else", True))
        return lambda it: then(it) if when(it) else otherwise(it)


class _Later:
    """A test that is known by name before it is compiled."""

    test: Test

    def __call__(self, it: Any) -> bool:
        return self.test(it)


_COMPANIONS = frozenset(("then", "else"))


def _all_of(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:  # noqa: PLR2004 - the usual case, without a loop
        one, other = tests
        return lambda it: one(it) and other(it)
    return lambda it: all(test(it) for test in tests)


def _any_of(tests: list[Test]) -> Test:
    return lambda it: any(test(it) for test in tests)


def _one_of(tests: list[Test]) -> Test:
    return lambda it: sum(test(it) for test in tests) == 1


def _not(inner: Test) -> Test:
    return lambda it: not inner(it)


def _for_lists(inner: Test) -> Test:
    return lambda it: not isinstance(it, list) or all(map(inner, it))


def _for_keys(inner: Test) -> Test:
    return lambda it: not isinstance(it, dict) or all(map(inner, it))


_COMBINATIONS = {"allOf": _all_of, "anyOf": _any_of, "oneOf": _one_of}
_NESTED = {"not": _not, "propertyNames": _for_keys}


def _is_number(it: Any) -> bool:
    return isinstance(it, (int, float)) and not isinstance(it, bool)


def _is_integer(it: Any) -> bool:
    return _is_number(it) and (isinstance(it, int) or it.is_integer())


_TYPES: dict[str, Test] = {
    "object": lambda it: isinstance(it, dict),
    "array": lambda it: isinstance(it, list),
    "string": lambda it: isinstance(it, str),
    "number": _is_number,
    "integer": _is_integer,
    "boolean": lambda it: isinstance(it, bool),
    "null": lambda it: it is None,
}


def _type(value: Any) -> Test:
    if isinstance(value, str):
        return _TYPES[value]
    tests = [_TYPES[name] for name in value]
    return lambda it: any(test(it) for test in tests)


def _enum(values: Any) -> Test:
    if all(isinstance(value, str) for value in values):
        words = frozenset(values)
        return lambda it: isinstance(it, str) and it in words
    return lambda it: any(same(it, value) for value in values)


def _pattern(value: str) -> Test:
    search = re.compile(value).search
    return lambda it: not isinstance(it, str) or search(it) is not None


def _bound(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Test]:
    return lambda limit: lambda it: not _is_number(it) or compare(it, limit)


def _size(kind: type[Sized], compare: Callable[[int, int], bool]) -> Callable[[Any], Test]:
    return lambda limit: lambda it: not isinstance(it, kind) or compare(len(it), limit)


def _unique(value: Any) -> Test:
    if not value:
        return lambda _: True
    return lambda it: not isinstance(it, list) or len({_frozen(each) for each in it}) == len(it)


def _required(keys: Any) -> Test:
    wanted = frozenset(keys)
    return lambda it: not isinstance(it, dict) or wanted <= it.keys()


def _dependent(value: Mapping[str, Any]) -> Test:
    wanted = {key: frozenset(names) for key, names in value.items()}
    return lambda it: (
        not isinstance(it, dict)
        or all(names <= it.keys() for key, names in wanted.items() if key in it)
    )


_SCALARS: dict[str, Callable[[Any], Test]] = {
    "type": _type,
    "enum": _enum,
    "const": lambda value: lambda it: same(it, value),
    "pattern": _pattern,
    "minimum": _bound(lambda it, limit: not it < limit),
    "maximum": _bound(lambda it, limit: not it > limit),
    "exclusiveMinimum": _bound(lambda it, limit: not it <= limit),
    "exclusiveMaximum": _bound(lambda it, limit: not it >= limit),
    "minLength": _size(str, lambda size, limit: size >= limit),
    "maxLength": _size(str, lambda size, limit: size <= limit),
    "minItems": _size(list, lambda size, limit: size >= limit),
    "maxItems": _size(list, lambda size, limit: size <= limit),
    "minProperties": _size(dict, lambda size, limit: size >= limit),
    "maxProperties": _size(dict, lambda size, limit: size <= limit),
    "uniqueItems": _unique,
    "required": _required,
    "dependentRequired": _dependent,
}
