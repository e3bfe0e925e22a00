"""`trace` runs a model as one and as two workers, and names the leg that made a difference."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pytest_falsify.cli import main

WITHIN, BEYOND, UNDECIDED = 0, 1, 2
TOKENS = "3,4,5,6,7,8,9"
CONTRACT = """\
metadata: {{id: C-SERVED}}
targets:
  nowhere: {{model: ./nothing-here, device: cpu}}
  here: {{model: {model}, device: cpu}}
captures:
  oracle: {{engine: transformers}}
  whole: {{engine: transformers, attention: sdpa}}
  served: {{engine: disaggregated, transfer: {{codec: int8, block: 2}}}}
  broken:
    engine: disaggregated
    transfer: {{block: 2, through: "broken_workers:dropped_block"}}
  quick: {{engine: disaggregated, attention: sdpa}}
  late: {{engine: disaggregated, decode: {{setup: "broken_workers:late_positions"}}}}
  carried:
    engine: disaggregated
    sources: ["*.yaml"]
    transfer: {{through: {{command: ["cp", "{{sent}}", "{{received}}"]}}}}
inputs: {{one: {{tokens: [3, 4, 5, 6, 7, 8, 9]}}, two: {{tokens: [9, 8, 7, 6]}}}}
falsification_tests:
- id: FALSIFY-HONEST
  check: {{kind: kv, subject: served, oracle: oracle, decode_steps: 2,
          expect: {{worst_row: {{max: 1.0e-4}}}}}}
- id: FALSIFY-TRANSFER
  check: {{kind: kv, subject: broken, oracle: oracle, decode_steps: 2,
          expect: {{worst_row: {{max: 1.0e-4}}}}}}
- id: FALSIFY-DECODE
  check: {{kind: decode, subject: late, oracle: oracle, new_tokens: 2, expect: {{kl: {{max: 1}}}}}}
- id: FALSIFY-NOISY
  check: {{kind: decode, subject: quick, oracle: oracle, new_tokens: 4, expect: {{kl: {{max: 1}}}},
          noise: {{control: whole}}, inputs: [one]}}
- id: FALSIFY-CARRIED
  check: {{kind: kv, subject: carried, oracle: oracle, expect: {{worst_row: {{max: 1.0e-4}}}}}}
- id: FALSIFY-WHOLE
  check: {{kind: parity, subject: whole, oracle: oracle, expect: {{worst_row: {{max: 1.0e-4}}}}}}
- id: FALSIFY-ALONE
  check: {{kind: deterministic, subject: oracle}}
"""


def trace(*arguments, status):
    result = CliRunner().invoke(main, ["trace", *map(str, arguments)])
    assert result.exit_code == status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


@pytest.fixture
def contract(families, tmp_path):
    path = tmp_path / "served.yaml"
    path.write_text(CONTRACT.format(model=families["llama"]))
    return lambda falsifier, target="here": f"{path}::{falsifier}[{target}]"


def test_nobody_is_blamed_for_an_honest_codec(contract):
    output = trace(contract("FALSIFY-HONEST"), status=WITHIN)
    assert output.startswith("leg: none\n  48 comparisons are within what is allowed\n")
    assert [line for line in output.splitlines() if line.startswith("input")] == [
        "input `one`",
        "input `two`",
    ]
    assert max(map(len, output.splitlines())) <= 100


def test_a_broken_transfer_is_found_with_its_layer_head_and_position(contract):
    output = trace(contract("FALSIFY-TRANSFER"), status=BEYOND)
    assert output.startswith("leg: transfer\n")
    first = " ".join(output.split("\n\n")[0].split())
    assert "transfer, on one: 1 site is beyond; the first is transfer/1/k_cache: head 0" in first
    assert "transfer, on two:" in first
    header, *lines = output.split("\n\n")[1].splitlines()[1:]
    assert header.split() == ["layer", "prefill", "transfer", "decode", "1", "2"]
    assert [line.split()[0] for line in lines if "!" in line] == ["1"]
    assert max(map(len, output.splitlines())) <= 100


def test_as_json_every_site_of_every_input_is_there(contract):
    body = json.loads(trace(contract("FALSIFY-TRANSFER"), "--format", "json", status=BEYOND))
    assert body["leg"] == "transfer"
    assert len(body["stages"]) == 2 * (2 * 3 * (1 + 1 + 2))
    beyond = [each for each in body["stages"] if each["is_beyond"]]
    assert [(each["input"], each["layer"], each["what"]) for each in beyond] == [
        ("one", 1, "k_cache"),
        ("two", 1, "k_cache"),
    ]
    assert beyond[0]["at"] == {"k": 0, "t": 2}


def test_a_falsifier_of_another_kind_is_traced_too_and_nothing_is_allowed(contract):
    output = trace(contract("FALSIFY-DECODE"), status=BEYOND)
    assert output.startswith("leg: decode\n")
    assert "mismatched" in output
    allowed = ("--expect", "{rel_l2: {max: 9}}")
    trace(contract("FALSIFY-DECODE"), *allowed, status=WITHIN)


def test_the_noise_of_a_falsifier_is_what_its_trace_allows(contract):
    output = trace(contract("FALSIFY-NOISY"), status=WITHIN)
    assert any("e-" in cell for cell in output.split("layer")[1].split())
    equal = ("--expect", "{mismatched: {max: 0}}")
    assert trace(contract("FALSIFY-NOISY"), *equal, status=BEYOND).startswith("leg: prefill\n")


def test_a_program_runs_with_permission_only(contract):
    refused = trace(contract("FALSIFY-CARRIED"), status=UNDECIDED)
    assert "runs a command, which is not done without permission" in refused
    trace(contract("FALSIFY-CARRIED"), "--allow-commands", status=WITHIN)


@pytest.mark.parametrize(
    ("falsifier", "target", "told"),
    [
        ("FALSIFY-WHOLE", "here", "has no transfer/0/k_cache"),
        ("FALSIFY-ALONE", "here", "no subject and oracle to trace between"),
        ("FALSIFY-NONE", "here", "names no falsifier"),
        ("FALSIFY-HONEST", "there", "`there` is no target of FALSIFY-HONEST"),
        ("FALSIFY-HONEST", "nowhere", "there is no model at ./nothing-here"),
    ],
)
def test_what_cannot_be_traced_says_why(contract, falsifier, target, told):
    assert told in trace(contract(falsifier, target), status=UNDECIDED)


def test_without_a_contract_a_model_is_run_in_two_ways(families):
    model = (families["llama"], "--tokens", TOKENS, "--new-tokens", 2)
    assert trace(*model, status=WITHIN).startswith("leg: none\n")
    broken = "{transfer: {block: 2, through: 'broken_workers:stale_block'}}"
    output = trace(*model, "--target", broken, "-v", status=BEYOND)
    assert output.startswith("leg: transfer\n")
    (line,) = (each for each in output.splitlines() if "beyond at" in each)
    assert line.split()[:4] == ["transfer", "0", "1", "v_cache"]


def test_a_program_that_is_typed_needs_no_further_permission(families, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {
        "sources": ["transfer.c"],
        "transfer": {"through": {"command": ["cp", "{sent}", "{received}"]}},
    }
    target = ("--target", json.dumps(settings))
    model = (families["llama"], "--tokens", TOKENS, *target)
    assert "no file transfer.c in the repository" in trace(*model, status=UNDECIDED)
    (tmp_path / "transfer.c").touch()
    trace(*model, status=WITHIN)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["m", "--target", "{atention: sdpa}", "--tokens", "1"], "did you mean `attention`?"),
        (["m", "--target", "int8", "--tokens", "1"], "--target int8 is no mapping"),
        (["m", "--target", "{transfer: {codec: int8}}"], "--text or --tokens"),
        (["m", "--tokens", "1,x"], "are no token ids"),
        (["m", "--target", "{engine: transformers}", "--tokens", "1"], "agrees with itself"),
        (["a/b/nothing", "--tokens", "1"], "there is no model at a/b/nothing"),
        (["m", "n", "--tokens", "1"], "not clear what is to be run"),
        (["c.yaml::FALSIFY-1", "--tokens", "1"], "not clear what is to be run"),
    ],
)
def test_a_slip_at_the_prompt_is_told_without_a_traceback(arguments, told):
    output = trace(*arguments, status=UNDECIDED)
    assert told in output
    assert "trace:0" not in output
