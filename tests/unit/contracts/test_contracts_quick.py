"""The quick validator and jsonschema are two opinions that must never differ."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pytest_falsify.contracts.quick import UnknownKeywordError, compiled, same
from pytest_falsify.contracts.schemas import contract_schema, full_schema

SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -1, 2, 1.0, 1.5, 10**20, math.inf, math.nan])
    | st.sampled_from(["", "a", "b", "ab", "all", "0..2", "cpu", "live", "A b", "a\n"])
)
KEYS = ("a", "b", "kind", "id", "check", "model", "text", "tokens")
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=8,
)
SIZES = st.integers(0, 3)
NAMES = st.lists(st.sampled_from(KEYS), max_size=2, unique=True)
TYPES = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])


def schemas(inner):
    members = st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    some = st.lists(inner, min_size=1, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "const": VALUES,
            "pattern": st.sampled_from(["^a", "b$", "^[0-9]+(?![\\s\\S])"]),
            "minimum": st.sampled_from([0, 1, 1.5]),
            "exclusiveMinimum": st.sampled_from([0, 1]),
            "maximum": st.sampled_from([0, 1, 1.5]),
            "exclusiveMaximum": st.sampled_from([1, 2]),
            "minLength": SIZES,
            "maxLength": SIZES,
            "minItems": SIZES,
            "maxItems": SIZES,
            "uniqueItems": st.booleans(),
            "minProperties": SIZES,
            "maxProperties": SIZES,
            "required": NAMES,
            "dependentRequired": st.dictionaries(st.sampled_from(KEYS), NAMES, max_size=2),
            "properties": members,
            "additionalProperties": inner,
            "propertyNames": inner,
            "items": inner,
            "anyOf": some,
            "oneOf": some,
            "allOf": some,
            "not": inner,
            "$ref": st.just("#/$defs/other"),
            "description": st.just("words"),
        },
    ) | st.fixed_dictionaries({"if": inner}, optional={"then": inner, "else": inner})


SCHEMAS = st.recursive(st.booleans(), schemas, max_leaves=5)


@settings(max_examples=600, deadline=None)
@given(SCHEMAS, VALUES)
def test_both_agree_on_any_schema(schema, value):
    schema = {"allOf": [schema], "$defs": {"other": {"type": ["string", "object"]}}}
    assert Draft202012Validator(schema).is_valid(value) == compiled(schema)(value)


SECTIONS = ("targets", "captures", "inputs", "falsification_tests", "require", "markers")


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(SECTIONS), VALUES))
def test_both_agree_on_contracts(value):
    schema = contract_schema()
    assert Draft202012Validator(schema).is_valid(value) == compiled(schema)(value)


def test_both_agree_on_good_contracts(executable, vocabulary, corpus):
    from pytest_falsify.contracts.loader import parse

    good = [parse(executable.encode(), corpus[0]), *(parse(p.read_bytes(), p) for p in corpus)]
    is_fit = compiled(contract_schema())
    assert all(is_fit(document.data) for document in good if isinstance(document.data, dict))
    schema = full_schema(vocabulary)
    Draft202012Validator.check_schema(schema)
    assert Draft202012Validator(schema).is_valid(good[0].data)


def test_the_full_schema_knows_the_parameters_of_each_kind(executable, vocabulary, tmp_path):
    from pytest_falsify.contracts.loader import parse

    validator = Draft202012Validator(full_schema(vocabulary))
    for old, new in (("kind: parity", "kind: x"), ("runs: 3", "rums: 3"), ("dtype:", "dtyp:")):
        document = parse(executable.replace(old, new, 1).encode(), tmp_path)
        assert not validator.is_valid(document.data), new


@pytest.mark.parametrize(
    "schema",
    [
        {"contains": {}},
        {"patternProperties": {"a": {}}, "additionalProperties": False},
        {"prefixItems": [{}], "items": False},
        {"$ref": "https://elsewhere"},
        {"$ref": "#/$defs/absent"},
        {"unevaluatedProperties": False},
        {"multipleOf": 2},
        {"items": {"then": False}},
    ],
)
def test_an_unknown_keyword_is_left_to_jsonschema(schema):
    with pytest.raises(UnknownKeywordError):
        compiled(schema)


def test_a_schema_may_refer_to_itself():
    tree = {
        "$ref": "#/$defs/tree",
        "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
    }
    assert compiled(tree)([[], [[]]])
    assert not compiled(tree)([[], [[1]]])


def test_true_is_not_one():
    assert not same(True, 1)
    assert not same({"a": [0]}, {"a": [False]})
    assert same({"a": 1, "b": [1.0]}, {"b": [1], "a": 1.0})


def test_many_items_are_found_unique_in_no_time():
    assert compiled({"uniqueItems": True})(list(range(50_000)))
