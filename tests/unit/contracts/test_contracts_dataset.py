"""Datasets: what is read of them, and that what is not a prompt is an error with its line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.contracts.dataset import Prompt, read_dataset
from pytest_falsify.contracts.digest import entry_digest, inputs_of
from pytest_falsify.contracts.model import InputSpec
from pytest_falsify.errors import ContractError

CONTRACT = """
targets: {{here: {{model: ./m}}}}
captures: {{a: {{engine: transformers}}, b: {{engine: recorded}}}}
inputs: {inputs}
falsification_tests:
- {{id: FALSIFY-A-1, check: {check}}}
"""
PARITY = "{kind: parity, subject: a, oracle: b}"


def written(folder, *lines):
    path = folder / "prompts.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_a_line_is_a_prompt_with_its_id_or_its_number(tmp_path):
    path = written(
        tmp_path,
        '{"prompt": "one"}',
        '{"id": "b", "text": "two", "expected": "left alone"}',
        '{"id": 7, "tokens": [3, 0, 4]}',
    )
    assert read_dataset(path) == (
        Prompt(id="1", line=1, text="one"),
        Prompt(id="b", line=2, text="two"),
        Prompt(id="7", line=3, tokens=(3, 0, 4)),
    )


def test_an_input_says_which_key_and_how_many_lines(tmp_path):
    path = written(tmp_path, *('{"prompt": "p", "tokens": [1]}' for _ in range(4)), "broken")
    assert [each.tokens for each in read_dataset(path, field="tokens", limit=3)] == [(1,)] * 3
    assert [each.text for each in read_dataset(path, field="prompt", limit=1)] == ["p"]


def test_an_empty_dataset_has_no_prompts(tmp_path):
    assert read_dataset(written(tmp_path)) == ()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "the line is not JSON"),
        ("", "the line is not JSON"),
        ("[1]", "the line is no object"),
        ('{"id": "a"}', "the line has no prompt"),
        ('{"prompt": "a", "text": "b"}', "the line has `prompt` and `text`"),
        ('{"prompt": "a", "prompt": "b"}', "`prompt` stands there twice"),
        ('{"prompt": ""}', "`prompt` is no text"),
        ('{"prompt": ["a"]}', "`prompt` is no text"),
        ('{"text": "\\ud800"}', "`text` holds half a character"),
        ('{"tokens": []}', "`tokens` is no list of token ids"),
        ('{"tokens": [1, true]}', "`tokens` is no list of token ids"),
        ('{"tokens": [1.0]}', "`tokens` is no list of token ids"),
        ('{"tokens": [-1]}', "`tokens` is no list of token ids"),
        ('{"id": null, "prompt": "a"}', "`id` is null"),
        ('{"id": true, "prompt": "a"}', "`id` is true"),
        ('{"id": "1", "prompt": "a"}', "the id `1` is also that of line 1"),
    ],
)
def test_what_is_no_prompt_is_an_error_with_its_line(tmp_path, line, what):
    path = written(tmp_path, '{"prompt": "fine"}', line)
    with pytest.raises(ContractError) as caught:
        read_dataset(path)
    assert what in caught.value.what
    assert (caught.value.path, caught.value.line) == (path, 2)
    assert caught.value.expected


def test_a_line_without_the_named_key_is_an_error(tmp_path):
    path = written(tmp_path, '{"text": "a"}')
    with pytest.raises(ContractError, match="has no `prompt`"):
        read_dataset(path, field="prompt")


def test_a_dataset_that_is_absent_or_not_text_is_an_error(tmp_path):
    with pytest.raises(ContractError, match="cannot be read: No such file"):
        read_dataset(tmp_path / "nowhere.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(ContractError, match="not JSON: 'utf-8' codec"):
        read_dataset(tmp_path / "a.jsonl")


@given(
    prompts=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1),
        st.text(st.characters(codec="utf-8"), min_size=1) | st.lists(st.integers(0), min_size=1),
        max_size=8,
    )
)
def test_whatever_can_be_written_is_read(tmp_path_factory, prompts):
    lines = [
        json.dumps({"id": id_, "text" if isinstance(value, str) else "tokens": value})
        for id_, value in prompts.items()
    ]
    found = read_dataset(written(tmp_path_factory.mktemp("d"), *lines))
    assert {each.id: each.text or list(each.tokens) for each in found} == prompts


def test_a_dataset_is_an_input_with_a_key_and_a_number_of_lines(load):
    contract = load(
        CONTRACT.format(
            inputs="{one: {text: hello}, many: {dataset: d.jsonl, field: text, limit: 9}}",
            check=PARITY,
        )
    )
    assert contract.inputs["many"] == InputSpec(
        name="many", line=4, dataset="d.jsonl", field="text", limit=9
    )
    assert [each.name for each in inputs_of(contract, contract.falsifiers[0])] == ["one"]


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        ("{many: {dataset: d.jsonl, text: hello}}", "`text` cannot be a name here"),
        ("{many: {dataset: d.jsonl, forced: [1]}}", "`forced` cannot be a name here"),
        ("{many: {dataset: d.jsonl, field: answer}}", "`answer` is not what `field` can be"),
        ("{many: {dataset: d.jsonl, limit: 0}}", "`0` is not what `limit` can be"),
        ("{many: {text: hello, limit: 3}}", "`dataset` is missing"),
        ("{many: {limit: 3}}", "`dataset` is missing"),
        ("{many: {dataset: d.jsonl}}", "the contract has no inputs"),
    ],
)
def test_an_input_that_is_no_prompt_and_no_dataset_is_refused(load, inputs, what):
    with pytest.raises(ContractError) as caught:
        load(CONTRACT.format(inputs=inputs, check=PARITY))
    assert what in str(caught.value)


def test_a_check_of_one_prompt_refuses_a_dataset(load):
    check = PARITY.replace("}", ", inputs: [many]}")
    inputs = "{one: {text: hello}, many: {dataset: d.jsonl}}"
    with pytest.raises(ContractError, match="`many` is a dataset, of which this kind of check"):
        load(CONTRACT.format(inputs=inputs, check=check))


def test_a_dataset_beside_a_prompt_changes_no_other_claim(load):
    alone = load(CONTRACT.format(inputs="{one: {text: hello}}", check=PARITY))
    beside = load(
        CONTRACT.format(inputs="{one: {text: hello}, many: {dataset: d.jsonl}}", check=PARITY)
    )
    assert entry_digest(alone, alone.falsifiers[0]) == entry_digest(beside, beside.falsifiers[0])
