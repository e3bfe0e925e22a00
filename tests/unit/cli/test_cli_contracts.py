"""lint, show, new and schema, as a person types them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pytest_falsify._loading import load
from pytest_falsify.cli import main

CONTRACT = """\
metadata: {id: C-ONE}
equations:
  parity: {formula: "y = x", invariants: ["they agree"]}
targets:
  here: {model: ./model, device: cpu}
captures:
  oracle: {engine: transformers}
  subject: {engine: transformers, attention: sdpa}
inputs:
  prompt: {tokens: [1, 2, 3]}
falsification_tests:
- id: FALSIFY-A-1
  rule: they agree
  prediction: bit by bit
  if_fails: look
  binds_to: parity
  check: {kind: identical, subject: subject, oracle: oracle}
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts/one.yaml").write_text(CONTRACT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)


def change(tree, old, new):
    path = tree / "contracts/one.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_clean_contract_lints_clean(tree):
    result = run("lint")

    assert result.exit_code == 0
    assert result.output == "0 errors, 0 warnings, 0 notes; 1 contract read, 0 files left alone\n"


def test_an_error_is_status_1_with_path_and_line(tree):
    change(tree, "binds_to: parity", "binds_to: parit")

    result = run("lint", "contracts")

    assert result.exit_code == 1
    assert "contracts/one.yaml:16: error" in result.output


def test_a_broken_contract_is_a_finding_among_others(tree):
    (tree / "contracts/two.yaml").write_text("falsification_tests: [\n")

    result = run("lint")

    assert result.exit_code == 1
    assert "contracts/two.yaml" in result.output
    assert "broken-contract" in result.output


def test_severities_are_the_projects_choice(tree):
    change(tree, "binds_to: parity", "binds_to: parit")
    found = json.loads(run("lint", "--format", "json").output)
    rules = {each["rule"] for each in found["findings"]}
    settings = "".join(f'{rule} = "off"\n' for rule in rules)
    (tree / "pyproject.toml").write_text(f"[tool.pytest-falsify.lint]\n{settings}")

    assert rules
    assert run("lint").exit_code == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[tool.pytest-falsify.lint]\nno-such-rule = "off"\n', "unknown lint rule"),
        ('[tool.pytest-falsify.lint]\nduplicate-id = "loud"\n', "is not a severity"),
        ("[tool", "not TOML"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tree, text, words):
    (tree / "pyproject.toml").write_text(text)

    result = run("lint")

    assert result.exit_code == 2
    assert words in result.output


def test_a_baseline_accepts_what_was_there_and_nothing_new(tree):
    change(tree, "binds_to: parity", "binds_to: parit")
    assert run("lint", "--baseline", "old.json", "--write-baseline").exit_code == 0
    (tree / "pyproject.toml").write_text('[tool.pytest-falsify.lint]\nbaseline = "old.json"\n')

    accepted = run("lint")
    change(tree, "rule: they agree", "depends: 1\n  binds: 2\n  rule: they agree")
    change(tree, "id: C-ONE}", "id: C-ONE, depends_on: [nowhere]}")
    worse = run("lint")
    change(tree, "binds_to: parit\n", "binds_to: parity\n")
    change(tree, ", depends_on: [nowhere]", "")
    better = run("lint")

    assert accepted.exit_code == 0
    assert "nowhere" in worse.output
    assert "parit`" not in worse.output
    assert "accepted findings are gone" in better.output


def test_a_baseline_that_is_not_there_is_refused(tree):
    result = run("lint", "--baseline", "absent.json")

    assert result.exit_code == 2
    assert "there is no baseline" in result.output


def test_annotations_for_github_name_file_and_line(tree):
    change(tree, "binds_to: parity", "binds_to: parit")

    output = run("lint", "--format", "github").output

    assert "::error file=contracts/one.yaml,line=16" in output


def test_a_status_typed_by_hand_that_the_ledger_does_not_support_is_found(tree):
    change(tree, "rule: they agree", "status: DISCHARGED\n  rule: they agree")

    assert "overclaimed" in run("lint").output


def test_the_drift_of_the_field_is_found(root):
    field = root.parent / "shared" / "data" / "contracts"
    if not field.is_dir():
        pytest.skip("the field's contracts are not here")

    found = json.loads(run("lint", field, "--format", "json").output)

    rules = [each["rule"] for each in found["findings"]]
    assert found["contracts"] > 150
    assert rules.count("dangling-obligation") > 100
    assert rules.count("wrong-count") >= 5
    assert rules.count("several-thresholds") >= 5


def test_our_own_contracts_lint_clean(root, monkeypatch):
    monkeypatch.chdir(root)

    result = run("lint")

    assert result.output.startswith("0 errors, 0 warnings")


def test_show_tells_the_claim_its_targets_and_its_status(tree):
    output = run("show", "FALSIFY-A-1").output

    assert output.startswith("FALSIFY-A-1  contracts/one.yaml:12\n")
    for words in ("they agree", "here: ./model, cpu", "identical", "UNTRIED: no evidence"):
        assert words in output


def test_show_of_an_unknown_id_is_refused(tree):
    result = run("show", "FALSIFY-B-1")

    assert result.exit_code == 2
    assert "no contract has a falsifier FALSIFY-B-1" in result.output


def test_new_writes_a_contract_that_loads_and_says_how_to_try_it(tree):
    result = run("new", "./model", "--subject", "dtype=bfloat16", "--out", "contracts/new.yaml")

    contract = load(tree / "contracts/new.yaml")
    assert "pytest --falsify contracts/new.yaml" in result.output
    assert contract.captures["subject"].options["dtype"] == "bfloat16"
    assert len(contract.falsifiers) >= 2


@pytest.mark.parametrize(
    ("model", "out", "written"),
    [
        ("models/mine", "contracts/new.yaml", "../models/mine"),
        ("./models/mine", "contracts/new.yaml", "../models/mine"),
        ("../models/mine", "contracts/new.yaml", "../models/mine"),
        ("models/mine", "new.yaml", "models/mine"),
        ("contracts", "new.yaml", "contracts"),
        ("owner/name", "contracts/new.yaml", "owner/name"),
    ],
)
def test_new_takes_a_folder_as_it_is_seen_from_here_too(tree, model, out, written):
    (tree / "models/mine").mkdir(parents=True)

    result = run("new", model, "--out", out)

    assert load(tree / out).targets["first"].model == written
    assert f"pytest --falsify {out}" in result.output
    assert f"#   pytest --falsify {out}\n" in (tree / out).read_text()


def test_new_replaces_nothing(tree):
    result = run("new", "./model", "--out", "contracts/one.yaml")

    assert result.exit_code == 2
    assert (tree / "contracts/one.yaml").read_text() == CONTRACT


@pytest.mark.parametrize("option", ["dtype", "dtype=float12"])
def test_new_refuses_options_that_mean_nothing(tree, option):
    result = run("new", "./model", "--subject", option, "--out", "contracts/new.yaml")

    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_the_starter_contract_runs_on_a_real_model(tree, pytester, qwen2_tiny, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.delenv("CI", raising=False)
    assert run("new", qwen2_tiny, "--out", pytester.path / "contracts/mine.yaml").exit_code == 0

    result = pytester.runpytest_subprocess("--falsify", "contracts", "-p", "no:randomly")

    result.assert_outcomes(passed=2)


def test_the_schema_knows_the_kinds_and_options_that_are_installed():
    from jsonschema import Draft202012Validator

    schema = json.loads(run("schema").output)

    Draft202012Validator.check_schema(schema)
    text = json.dumps(schema)
    assert all(word in text for word in ("deterministic", "new_tokens", "rounding", "transformers"))


def test_show_names_the_tests_that_are_bound(tree, pytester, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    (tree / "contracts/two.yaml").write_text(
        "metadata: {id: C-TWO}\nfalsification_tests:\n- {id: FALSIFY-B-1, rule: r}\n"
    )
    (tree / "test_mine.py").write_text(
        "import pytest\n\n@pytest.mark.falsifies('FALSIFY-B-1')\n"
        "def test_it():\n    assert 1 + 1 == 2\n"
    )
    (tree / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.chdir(tree)
    pytester.runpytest_subprocess(
        "--falsify", str(tree), "--rootdir", str(tree), "-k", "test_it or B-1"
    )

    output = run("show", "FALSIFY-B-1").output

    assert "test_mine.py::test_it" in output
    assert "PARTIAL" in output
