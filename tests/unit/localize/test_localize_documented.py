"""The example of docs/localize.md runs, prints what the page shows, and finds what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from string import Template

import pytest
from click.testing import CliRunner

from pytest_falsify._loading import load
from pytest_falsify.checks.claim import Claim
from pytest_falsify.checks.localize import Localize
from pytest_falsify.cli import main

pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "localize.md").read_text(encoding="utf-8")
EXAMPLE = PAGE.partition("\n## An example\n")[2].partition("\n## ")[0]
NUMBER = re.compile(r"(?<![\w/])\d+(?:\.\d+)?(?:e[-+]\d+)?(?![\w/])")
HEAD = """\
metadata: {id: C-PAGE}
targets: {tiny: {model: m, device: cpu, level: algorithm}}
captures:
  engine: {engine: transformers, dtype: bfloat16, attention: sdpa}
  oracle: {engine: transformers, dtype: float32}
  bfloat16: {engine: transformers, dtype: bfloat16}
inputs: {prompt: {tokens: [1, 2]}}
falsification_tests:
- id: FALSIFY-PAGE-001
  rule: the page's check is one
"""


def block(language):
    (found,) = re.findall(rf"^```{language}\n((?:.*\n)*?)```$", EXAMPLE, re.MULTILINE)
    return found


def commands():
    """Return the arguments of each command, as a shell would pass them."""
    variables, found = {}, []
    for line in block("sh").replace("\\\n", " ").splitlines():
        name, assigns, value = line.partition("=")
        if assigns and name.isidentifier():
            (variables[name],) = shlex.split(value)
        else:
            program, *arguments = shlex.split(Template(line).substitute(variables))
            assert program == "pytest-falsify"
            found.append(arguments)
    return found


def without_numbers(text):
    """The last digits differ between processors; words, sites and verdicts must not."""
    return re.sub(r"[ -]+", " ", NUMBER.sub("#", text)).strip()


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the commands of the page print, one after the other in one folder."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "fixtures").symlink_to(ROOT / "fixtures")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        return {each[0]: CliRunner().invoke(main, each) for each in commands()}


def test_what_the_page_shows_is_what_its_command_prints(printed):
    result = printed["bisect"]
    lines = {without_numbers(line) for line in result.stdout.splitlines()}
    shown = [without_numbers(line) for line in block("text").splitlines()]
    assert result.exit_code == 1, result.output
    assert [line for line in shown if line not in lines] == []
    assert sum(" is guilty" in line for line in shown) == 1


def test_compare_accuses_as_many_as_the_page_says(printed):
    many, every = re.search(r"`compare` finds (\d+) of (\d+) sites", EXAMPLE).groups()
    assert int(re.search(r"(\d+) sites are beyond", printed["compare"].stdout)[1]) == int(many)
    assert f"{every} sites" in printed["capture"].stderr + printed["capture"].stdout


def test_the_contract_of_the_page_is_one(tmp_path):
    body = "".join(f"  {line}\n" for line in block("yaml").splitlines())
    (tmp_path / "c.yaml").write_text(HEAD + body, encoding="utf-8")
    contract = load(tmp_path / "c.yaml")
    (falsifier,) = contract.falsifiers
    (target,) = contract.targets.values()
    claim = Claim(contract=contract, falsifier=falsifier, target=target)
    assert {"subject", "oracle", "control"} == {each.role for each in Localize().requests(claim)}
