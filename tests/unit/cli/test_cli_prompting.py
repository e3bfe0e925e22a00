"""prompt: one prompt of many, run again on the trained model."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pytest_falsify.cli import main

pytest.importorskip("torch")
pytest.importorskip("transformers")

AGREES, DIFFERS, UNDECIDED = 0, 1, 2
CONTRACT = """
targets: {{here: {{model: {model}}}}}
captures:
  oracle: {{engine: transformers}}
  sdpa: {{engine: transformers, attention: sdpa}}
  broken: {{engine: transformers, plant: {{site: 0/2/attn_out, fault: tokens shifted by one}}}}
inputs:
  prompts: {{dataset: prompts.jsonl}}
  one: {{tokens: [1, 2]}}
falsification_tests:
- {{id: FALSIFY-A-1, check: {{kind: rate, subject: sdpa, {rest}, noise: {{control: broken}}}}}}
- {{id: FALSIFY-A-2, check: {{kind: rate, subject: broken, {rest}}}}}
- {{id: FALSIFY-A-3, check: {{kind: argmax, subject: sdpa, oracle: oracle}}}}
"""
REST = (
    "oracle: oracle, inputs: [prompts], outcome: tokens, new_tokens: 3, expect: {rate: {max: 0.1}}"
)
PROMPTS = [
    {"id": "manual", "prompt": "Evaluated of the captured inputs, every stage of every family"},
    {"id": "foreign", "tokens": [5, 99_999]},
]


@pytest.fixture
def contract(tmp_path, qwen2_tiny):
    lines = "".join(f"{json.dumps(each)}\n" for each in PROMPTS)
    (tmp_path / "prompts.jsonl").write_text(lines)
    path = tmp_path / "c.yaml"
    path.write_text(CONTRACT.format(model=qwen2_tiny, rest=REST))
    return path


def run(contract, name, prompt, *arguments, status):
    result = CliRunner().invoke(main, ["prompt", f"{contract}::{name}", prompt, *arguments])
    assert result.exit_code == status, result.output
    return result.output


def test_each_side_says_what_it_answers(contract):
    lines = run(contract, "FALSIFY-A-1", "manual", status=AGREES).splitlines()
    assert lines[0] == "manual: the subject agrees"
    assert [each.split()[0] for each in lines[1::2]] == ["subject", "oracle", "control"]
    assert all(" tokens, the next: " in each for each in lines[1::2])
    decoded = [each.split("decoded: ")[1].split() for each in lines[2::2]]
    assert decoded[0] == decoded[1] != decoded[2]
    assert [len(each) for each in decoded] == [3, 3, 3]


def test_an_answer_that_differs_is_one_and_says_where(contract):
    body = json.loads(run(contract, "FALSIFY-A-2", "manual", "--format", "json", status=DIFFERS))
    mine, theirs = (body["roles"][role]["tokens"] for role in ("subject", "oracle"))
    assert body["differs"] is True
    assert mine[: body["at"]] == theirs[: body["at"]]
    assert mine[body["at"]] != theirs[body["at"]]
    best = [each["logprob"] for each in body["roles"]["oracle"]["candidates"]]
    assert best == sorted(best, reverse=True)
    assert body["roles"]["oracle"]["candidates"][0]["token"] == theirs[0]


@pytest.mark.parametrize(
    ("name", "prompt", "what"),
    [
        ("FALSIFY-A-1", "nowhere", "has a prompt `nowhere`"),
        ("FALSIFY-A-1", "foreign", "has a token id outside the vocabulary"),
        ("FALSIFY-A-3", "manual", "is of kind `argmax`, which sees no dataset"),
        ("FALSIFY-A-9", "manual", "names no falsifier"),
    ],
)
def test_what_cannot_be_run_is_told(contract, name, prompt, what):
    assert what in run(contract, name, prompt, status=UNDECIDED)
