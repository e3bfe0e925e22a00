"""Bad input gets the line, what was expected and how to mend it, and no traceback of ours."""

from __future__ import annotations

import shutil

import pytest

GOOD = """\
metadata: {id: C-ONE}
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
  check:
    kind: identical
    subject: subject
    oracle: oracle
    stages: [embedding]
"""
# what is written instead of what, the line that is named, and words that help
MISTAKES = {
    "broken YAML": ("subject: subject", "subject: [subject", 15, []),
    "unknown check kind": ("kind: identical", "kind: identicle", 13, ["identical", "parity"]),
    "unknown key of a check": ("oracle: oracle\n", "oracel: oracle\n", 15, ["oracle"]),
    "unknown stage": ("[embedding]", "[embeding]", 16, ["embedding"]),
    "unknown target": ("  check:", "  targets: [ther]\n  check:", 12, ["here"]),
    "unknown capture": ("subject: subject", "subject: subjekt", 14, ["subject"]),
    "unknown engine": ("oracle: {engine: transformers}", "oracle: {engine: torch}", 5, []),
    "unknown option": ("attention: sdpa", "atention: sdpa", 6, ["attention"]),
    "unknown level": ("device: cpu", "level: lives", 3, ["live", "algorithm"]),
    "input without a source": ("{tokens: [1, 2, 3]}", "{}", 8, ["text", "tokens", "file"]),
    "a key twice": ("  rule: they agree", "  rule: a\n  rule: b", 12, ["rule"]),
    "an id twice": ("  rule: they agree", "- id: FALSIFY-A-1\n  rule: b", 11, ["FALSIFY-A-1"]),
    "an id that cannot be selected": ("FALSIFY-A-1", "FALSIFY::A", 10, []),
    "no targets": ("  here: {model: ./model, device: cpu}", "  {}", None, ["target"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_contract_is_named_with_its_line(project, mistake):
    old, new, line, words = MISTAKES[mistake]
    assert old in GOOD
    project.file("contracts/one.yaml", GOOD.replace(old, new, 1))

    ran = project.run("contracts")

    assert ran.result.ret == pytest.ExitCode.INTERRUPTED
    place = f"contracts/one.yaml:{line}: " if line else "contracts/one.yaml:"
    assert place in ran.text
    assert "expected: " in ran.text or "to mend: " in ran.text
    assert [word for word in words if word not in ran.text] == []
    _must_be_clean(ran.text)


def test_one_broken_contract_does_not_hide_the_others(project):
    project.file("contracts/broken.yaml", GOOD.replace("kind: identical", "kind: x"))
    project.contract("FALSIFY-B-1", name="good")
    project.captures()

    ran = project.run("contracts", "--continue-on-collection-errors")

    assert ran.outcomes == {"passed": 1, "errors": 1}


def test_yaml_that_is_no_contract_is_left_alone(project):
    project.file("contracts/binding.yaml", "bindings: [1, 2]\n")
    project.file("elsewhere/broken.yaml", "a: [1\n")
    project.contract("FALSIFY-A-1")
    project.captures()

    ran = project.run("contracts", "elsewhere")

    assert ran.result.ret == 0
    assert ran.outcomes == {"passed": 1}


def test_a_missing_model_folder_is_an_error_that_names_the_target(project):
    project.file("contracts/one.yaml", GOOD)

    ran = project.run("contracts")

    assert ran.outcomes == {"errors": 1}
    ran.result.stdout.fnmatch_lines(
        [
            "contracts/one.yaml:3: target `here`: there is no model at ./model",
            "  expected: a folder with config.json*",
            "  to mend: *provide:*",
        ]
    )
    assert ran.statuses() == {"FALSIFY-A-1": "UNTRIED"}
    _must_be_clean(ran.text)


def test_a_missing_model_that_can_be_provided_is_blocked_with_the_command(project):
    text = GOOD.replace("model: ./model,", "model: ./model, provide: make models,")
    project.file("contracts/one.yaml", text)

    ran = project.run("contracts", "-rs")

    assert ran.outcomes == {"skipped": 1}
    assert ran.statuses() == {"FALSIFY-A-1": "BLOCKED"}
    assert "to mend: make models" in ran.text


@pytest.mark.parametrize("kept", [0.5, 0.0], ids=["cut in half", "empty"])
def test_a_truncated_weight_file_is_an_error_that_names_it(project, qwen2_tiny, kept):
    folder = project.path / "contracts" / "model"
    shutil.copytree(qwen2_tiny, folder)
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: int(len(data) * kept)])
    project.file("contracts/one.yaml", GOOD)

    ran = project.run("contracts")

    assert ran.outcomes == {"errors": 1}
    assert "model.safetensors: not a whole safetensors file" in ran.text
    assert "to mend: fetch or make the file again" in ran.text
    _must_be_clean(ran.text)


def _must_be_clean(text: str) -> None:
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    assert "pytest_falsify/" not in text
    assert ".py:" not in text


PLACES = {
    "target": ("model: ./model", "model: ./nothing", 3),
    "capture": ("attention: sdpa", "config: {layers: 3}", 6),
    "input": ("{tokens: [1, 2, 3]}", "{file: nothing.txt}", 8),
}


@pytest.mark.parametrize("what", PLACES)
def test_what_is_found_wrong_in_a_run_is_placed_where_it_is_written(project, qwen2_tiny, what):
    old, new, line = PLACES[what]
    (project.path / "contracts").mkdir()
    (project.path / "contracts/model").symlink_to(qwen2_tiny)
    project.file("contracts/one.yaml", GOOD.replace(old, new))

    ran = project.run("contracts")

    assert ran.outcomes == {"errors": 1}
    assert f"contracts/one.yaml:{line}: " in ran.text
    _must_be_clean(ran.text)


def test_skips_point_at_the_contract(project):
    project.contract("FALSIFY-A-1")
    project.file("contracts/two.yaml", "falsification_tests:\n- {id: FALSIFY-B-1, rule: prose}\n")
    project.captures(FALSIFY_A_1="blocked")

    ran = project.run("contracts", "-rs")

    assert ran.outcomes == {"skipped": 2}
    places = [line.split()[2] for line in ran.text.splitlines() if line.startswith("SKIPPED")]
    assert sorted(places) == ["contracts/one.yaml:11:", "contracts/two.yaml:2:"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("modle='m'", ["unknown key `modle`", "did you mean `model`?"]),
        ("device='cpu'", ["`model` is missing"]),
        ("model='m', device='gpu'", ["`gpu` is not what `device` can be", "cpu, cuda"]),
        ("model='m', level='lives'", ["`lives` is not what `level` can be"]),
        ("'m'", ["falsify_target takes named arguments only"]),
    ],
)
def test_a_wrong_mark_of_a_target_is_said_without_a_traceback(project, arguments, words):
    project.file(
        "test_it.py",
        f"""
        import pytest

        @pytest.mark.falsify_target({arguments})
        def test_it(falsify_target):
            pass
        """,
    )

    ran = project.run("test_it.py")

    assert ran.outcomes == {"errors": 1}
    assert [each for each in words if each not in ran.text] == []
    assert "Traceback" not in ran.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [("'FALSIFY-A-1', contrat='C-ONE'", "takes no `contrat`"), ("", "names no falsifier")],
)
def test_a_wrong_mark_of_a_binding_is_said(project, arguments, words):
    project.contract("FALSIFY-A-1")
    project.captures()
    project.file(
        "test_it.py",
        f"""
        import pytest

        @pytest.mark.falsifies({arguments})
        def test_it():
            assert True
        """,
    )

    ran = project.run("contracts", "test_it.py", "-W", "default")

    assert f"falsifies {words}" in ran.text
