"""Two validators, one that is fast and one that explains: what fits one fits the other."""

import json
import math

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pytest_falsify.contracts.schemas import Shape, contract_schema, full_schema
from pytest_falsify.errors import ContractError

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


@settings(max_examples=600)
@given(SCHEMAS, VALUES)
@example({"maximum": 0}, math.inf)
@example({"items": {"minimum": 0}}, [-math.inf])
def test_the_fast_one_is_never_the_laxer(schema, value):
    assume("Infinity" not in json.dumps(schema) and "NaN" not in json.dumps(schema))
    schema = {"allOf": [schema], "$defs": {"other": {"type": ["string", "object"]}}}
    if Shape(schema)._fits(value):
        assert Draft202012Validator(schema).is_valid(value)


SECTIONS = ("targets", "captures", "inputs", "falsification_tests", "require", "markers")


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(SECTIONS), VALUES))
def test_both_agree_on_contracts(value):
    schema = contract_schema()
    fits = not list(Shape(schema, is_typed=True).violations(value))
    assert Draft202012Validator(schema).is_valid(value) == fits


def test_both_agree_on_good_contracts(executable, vocabulary, corpus):
    from pytest_falsify.contracts.loader import parse

    good = [parse(executable.encode(), corpus[0]), *(parse(p.read_bytes(), p) for p in corpus)]
    shape = Shape(contract_schema(), is_typed=True)
    found = [list(shape.violations(each.data)) for each in good if isinstance(each.data, dict)]
    assert not any(found)
    schema = full_schema(vocabulary)
    Draft202012Validator.check_schema(schema)
    assert Draft202012Validator(schema).is_valid(good[0].data)


def test_the_full_schema_knows_the_parameters_of_each_kind(executable, vocabulary, tmp_path):
    from pytest_falsify.contracts.loader import parse

    validator = Draft202012Validator(full_schema(vocabulary))
    for old, new in (("kind: parity", "kind: x"), ("runs: 3", "rums: 3"), ("dtype:", "dtyp:")):
        document = parse(executable.replace(old, new, 1).encode(), tmp_path)
        assert not validator.is_valid(document.data), new


def test_a_schema_may_refer_to_itself():
    tree = {
        "$ref": "#/$defs/tree",
        "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
    }
    assert list(Shape(tree).violations([[], [[]]])) == []
    assert list(Shape(tree).violations([[], [[1]]])) != []


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, {1: 2}, {"a": object()}])
def test_what_is_no_json_value_is_explained_by_jsonschema_or_passes_it_too(value):
    shape = Shape({"type": "string"})

    assert list(shape.violations(value)) != []


def test_one_of_several_keys_is_asked_for_by_name(load, executable, vocabulary):
    parity = vocabulary.checks["parity"]
    parity["anyOf"] = [{"required": ["expect"]}, {"required": ["noise"]}]
    text = executable.replace("    noise: {control: control}\n", "")

    with pytest.raises(ContractError) as caught:
        load(text.replace("    expect: {rel_l2: 1e-3}\n", ""))

    assert caught.value.what == "`check` has no `expect` or `noise`"
    assert caught.value.remedy == "add `expect:` or `noise:`"
