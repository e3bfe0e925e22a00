"""A change of a source, of a model's file or of a target makes evidence stale; prose does not."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from pytest_falsify.cli import main

CONTRACT = """
metadata: {id: C-ONE, description: of a kernel}
targets:
  tiny: {model: ./tiny, device: cpu, level: algorithm}
  teacher: {model: ./teacher, device: cpu, level: live}
captures:
  oracle: {engine: transformers, dtype: float32}
  subject: {engine: transformers, dtype: float32, attention: sdpa, sources: ["crates/**/*.rs"]}
inputs:
  prompt: {file: prompt.txt}
falsification_tests:
- id: FALSIFY-A-1
  rule: the kernel agrees
  check: {kind: parity, subject: subject, oracle: oracle, expect: {rel_l2: {max: 1e-3}}}
"""
LIVE, LAPTOP = ("-m", "live"), ("-m", "not live")


@pytest.fixture
def ported(project, monkeypatch):
    """A kernel whose claim held on a live target; from now on nothing live is run."""
    monkeypatch.chdir(project.path)
    project.file(".git/HEAD", "ref: refs/heads/main\n")
    project.file("contracts/one.yaml", CONTRACT)
    project.file("contracts/prompt.txt", "What is 2+2?\n")
    project.file("contracts/teacher/config.json", "{}\n")
    project.file("contracts/teacher/model.bin", "weights\n")
    project.file("contracts/teacher/tokenizer.json", "{}\n")
    project.file("crates/attention/src/lib.rs", "fn softmax() {}\n")
    project.file("crates/README.md", "A kernel.\n")
    project.captures()
    assert project.run("contracts", *LIVE).statuses() == {"FALSIFY-A-1": "DISCHARGED"}
    return project


def _replace(project, name, old, new):
    text = (project.path / name).read_text()
    assert old in text
    project.file(name, text.replace(old, new))


CHANGES = {
    "a source": ("crates/attention/src/lib.rs", "softmax", "softmax_of_all", "sources"),
    "an input": ("contracts/prompt.txt", "2+2", "2+3", "sources"),
    "a weight": ("contracts/teacher/model.bin", "weights", "others!", "model"),
    "the tokenizer": ("contracts/teacher/tokenizer.json", "{}", "[]", "model"),
    "the level": ("contracts/one.yaml", "level: live", "level: algorithm", "target's declaration"),
    "the model": ("contracts/one.yaml", "./teacher", "./teachers", "target's declaration"),
    "a dtype": ("contracts/one.yaml", "dtype: float32, attention", "attention", "entry"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_on_a_laptop_makes_live_evidence_stale(ported, change):
    name, old, new, noun = CHANGES[change]
    _replace(ported, name, old, new)
    words = f"STALE       was DISCHARGED on teacher before the {noun} changed"

    assert words in CliRunner().invoke(main, ["status"]).output
    denied = "was changed after the ledger said" if change == "a dtype" else "is STALE: was"
    assert denied in CliRunner().invoke(main, ["gate"]).output
    ran = ported.run("contracts", *LAPTOP)

    if change == "the level":
        assert ran.statuses() == {"FALSIFY-A-1": "PARTIAL"}
    else:
        assert words in ran.text or f"was DISCHARGED on teacher before the {noun}" in ran.text


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("crates/README.md", "A kernel", "The kernel"),
        ("contracts/one.yaml", "of a kernel", "of the kernel"),
        ("contracts/one.yaml", "the kernel agrees", "it agrees"),
    ],
)
def test_prose_changes_nothing(ported, name, old, new):
    before = (ported.path / "evidence/C-ONE.json").read_text()
    _replace(ported, name, old, new)

    assert "DISCHARGED" in CliRunner().invoke(main, ["status"]).output
    ported.run("contracts", *LIVE)
    assert (ported.path / "evidence/C-ONE.json").read_text() == before


def test_what_comes_back_is_fresh_again(ported):
    name, old, new, _ = CHANGES["a source"]
    _replace(ported, name, old, new)
    assert "STALE" in CliRunner().invoke(main, ["status"]).output
    _replace(ported, name, new, old)

    assert "DISCHARGED" in CliRunner().invoke(main, ["status"]).output


def test_a_model_that_is_not_here_makes_nothing_stale(ported):
    for each in (ported.path / "contracts/teacher").iterdir():
        each.unlink()
    (ported.path / "contracts/teacher").rmdir()

    assert "DISCHARGED" in CliRunner().invoke(main, ["status"]).output


def test_declared_sources_that_are_not_there_are_an_error_at_their_line(ported):
    (ported.path / "crates/attention/src/lib.rs").unlink()

    ran = ported.run("contracts", *LIVE)

    assert ran.outcomes == {"errors": 1}
    assert "contracts/one.yaml:7: there is no file crates/**/*.rs in the repository" in ran.text
