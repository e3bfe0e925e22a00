"""localize and bisect, of what a server tells: they say what can be done instead."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from pytest_falsify.cli import main

pytest.importorskip("torch")
pytest.importorskip("transformers")

COULD_NOT = 2
NOWHERE = "http://127.0.0.1:9/"
CONTRACT = """
targets: {{here: {{model: {model}}}}}
captures:
  oracle: {{engine: transformers}}
  sdpa: {{engine: transformers, attention: sdpa}}
  server: {{engine: openai, url: "{url}", retries: 0, timeout: 1}}
inputs:
  prompt: {{tokens: [3, 141, 59]}}
falsification_tests:
- {{id: FALSIFY-A-1, check: {{kind: argmax, subject: server, oracle: oracle}}}}
- id: FALSIFY-A-2
  check:
    {{kind: localize, subject: sdpa, oracle: server, stages: all, expect: {{guilty: none}}}}
- id: FALSIFY-A-3
  check: {{kind: parity, subject: sdpa, oracle: oracle, stages: all, noise: {{control: server}}}}
"""


def run(*arguments):
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize("name", ["FALSIFY-A-1", "FALSIFY-A-2", "FALSIFY-A-3"])
def test_a_server_is_not_even_asked_for_what_it_cannot_show(tmp_path, qwen2_tiny, name):
    contract = tmp_path / "c.yaml"
    contract.write_text(CONTRACT.format(model=qwen2_tiny, url=NOWHERE))

    result = run("localize", f"{contract}::{name}")

    assert result.exit_code == COULD_NOT
    assert result.output.startswith(f"{contract}:")
    assert "capture `server` is what a server tells, which shows nothing from inside" in (
        result.output
    )
    assert "argmax, decode, deterministic, distribution, tokens, topk and rate" in result.output
    assert "docs/served.md" in result.output
    assert "dtype" not in result.output


def test_what_a_server_told_shows_nothing_afterwards_either(tmp_path, qwen2_tiny, aggregated_url):
    told = tmp_path / "told"
    captured = run(
        *("capture", qwen2_tiny, "--engine", "openai", "--option", f"url={aggregated_url}"),
        *("--tokens", "3,141", "--out", told),
    )
    assert captured.exit_code == 0, captured.output

    result = run("bisect", told, told, "--model", qwen2_tiny)

    assert result.exit_code == COULD_NOT
    assert "capture `subject` is what a server tells" in result.output
