import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.contracts import loader
from pytest_falsify.contracts.loader import parse
from pytest_falsify.errors import ContractError

HERE = Path("c.yaml")


def value(text):
    return parse(text.encode(), HERE).data


def refused(text):
    with pytest.raises(ContractError) as caught:
        parse(text if isinstance(text, bytes) else text.encode(), HERE)
    assert caught.value.path == HERE
    return caught.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 1e-3),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("010", 10),
        ("+7", 7),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("190:20:30", "190:20:30"),
        ("0b11", "0b11"),
        ("no", "no"),
        ("off", "off"),
        ("Yes", "Yes"),
        ("true", True),
        ("FALSE", False),
        ("2024-01-31", "2024-01-31"),
        ("2024-01-31T10:00:00Z", "2024-01-31T10:00:00Z"),
        ("~", None),
        ("null", None),
        ("'1'", "1"),
        ('"null"', "null"),
        ("1.2.3", "1.2.3"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("!!str 12", "12"),
        ("!!float 1", 1),
        ("=", "="),
        (".", "."),
        ("-", [None]),
        ("e3", "e3"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text, expected):
    found = value(text)
    assert expected == found
    assert type(expected) is type(found)


def test_nan_is_a_number():
    assert math.isnan(value(".nan"))


def test_a_number_beyond_all_floats_is_infinite_and_not_a_hang():
    assert value("9" * 50_000) == math.inf
    assert value("1e999") == math.inf


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "--- # nothing\n...\n"])
def test_a_file_without_a_value_is_empty(text):
    assert value(text) is None


def test_a_leading_document_mark_is_fine():
    assert value("---\na: 1\n") == {"a": 1}


def test_a_byte_order_mark_is_fine():
    assert parse(b"\xef\xbb\xbfa: 1\n", HERE).data == {"a": 1}


def test_keys_are_the_text_that_was_written():
    assert value("1.0: a\n2024-01-31: b\nyes: c\nnull: d") == {
        "1.0": "a",
        "2024-01-31": "b",
        "yes": "c",
        "null": "d",
    }


def test_every_value_knows_its_line():
    document = parse(b"a: 1\nb:\n  c:\n  - x\n  - {d: 2,\n     e: 3}\n", HERE)
    assert document.line(("a",)) == 1
    assert document.line(("b",)) == 2
    assert document.line(("b", "c")) == 3
    assert document.line(("b", "c", 0)) == 4
    assert document.line(("b", "c", 1, "e")) == 6
    assert document.line(()) == 1


def test_the_line_of_something_absent_is_that_of_what_surrounds_it():
    document = parse(b"a: 1\nb:\n  c: []\n", HERE)
    assert document.line(("b", "nothing", 3)) == 2
    assert document.line(("b", "c", 7)) == 3
    assert document.line(("a", "below")) == 1


def test_a_duplicate_key_names_both_lines():
    error = refused("a: 1\nb: 2\na: 3\n")
    assert error.line == 3
    assert "`a`" in error.what
    assert "line 1" in error.expected


def test_a_duplicate_key_hidden_by_quotes_is_found():
    assert refused("a: {b: [1]}\n'a': 3\n").line == 2


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("a: b: c", 1, "quotes"),
        ("a: 1\n b: 2\nc: [1\n", 2, None),
        ('a: 1\nb: "x\n', 3, "quotation"),
        ("a:\n\tb: 1\n", 2, "tabs"),
        ("a: @b\n", 1, "@"),
        ("a: 1\n---\nb: 2\n", 2, "one contract"),
        ("a: *b\n", 1, r"\*"),
        ("a: !!python/object:os.system x", 1, "tag"),
        ("a: !secret x", 1, "tag"),
        ("? [a, b]\n: c", 1, "quotes"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, "write the keys out"),
        ("a: 1\nb: \x07\n", 2, "remove"),
    ],
)
def test_broken_yaml_is_refused_with_a_line_and_a_hint(text, line, hint):
    error = refused(text)
    assert error.line == line
    assert hint is None or re.search(hint, error.remedy)


def test_bytes_that_are_not_utf_8_are_refused_with_a_line():
    error = refused(b"a: 1\nb: \xff\n")
    assert (error.line, error.remedy) == (2, "save the file as UTF-8")


def test_an_alias_is_read():
    assert value("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


def test_a_billion_laughs_are_refused_at_once():
    lines = ["a0: &a0 [lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert "aliases" in refused("\n".join(lines)).what


def test_a_value_within_itself_is_refused():
    assert "`&x`" in refused("a: &x [*x]\n").what


def test_an_anchor_may_be_used_again():
    assert value("[&x 1, *x, &x 2, *x]") == [1, 1, 2, 2]


def test_an_aliased_mapping_has_the_line_of_the_key_it_stands_under():
    document = parse(b"a: &x {c: 1}\nb:\n  *x\nd: *x\n", HERE)
    assert [document.line((key,)) for key in "abd"] == [1, 2, 4]


@pytest.mark.parametrize("text", ["[" * 5000, "- " * 5000 + "a", "{a: " * 500 + "1" + "}" * 500])
def test_deep_nesting_is_refused_at_once(text):
    assert "nested deeper" in refused(text).what


def test_too_many_values_are_refused():
    assert "100,000" in refused("[" + "a," * 200_000 + "]").what


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "MAX_BYTES", 100)
    path = tmp_path / "large.yaml"
    path.write_text("a" * 101)
    with pytest.raises(ContractError, match="larger than"):
        loader.read(path)
    path.write_text("a" * 100)
    assert len(loader.read(path)) == 100


def test_a_file_that_is_absent_says_so(tmp_path):
    with pytest.raises(ContractError, match="cannot be read: No such file"):
        loader.read(tmp_path / "absent.yaml")


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcxyz 01", max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_VALUES)
def test_json_is_yaml_and_is_read_as_json(expected):
    import json

    assert expected == value(json.dumps(expected, ensure_ascii=False))
