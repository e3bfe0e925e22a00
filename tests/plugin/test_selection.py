"""Items are selected as pytest's own: by mark, name, node id, and on workers."""

from __future__ import annotations

import pytest

LANES = """
metadata: {id: C-ONE}
markers: [nightly]
targets:
  small: {model: ./model, device: cpu, level: algorithm}
  big: {model: ./model, device: cuda, level: live, markers: [teacher]}
captures: {oracle: {engine: transformers}, subject: {engine: transformers, attention: sdpa}}
inputs: {prompt: {tokens: [1, 2]}}
falsification_tests:
- id: FALSIFY-A-1
  rule: they agree
  check: {kind: identical, subject: subject, oracle: oracle}
- id: FALSIFY-A-2
  rule: they agree
  targets: [small]
  check: {kind: identical, subject: subject, oracle: oracle}
"""
ALL = {"FALSIFY-A-1[small]", "FALSIFY-A-1[big]", "FALSIFY-A-2[small]"}
SELECTIONS = {
    ("-m", "gpu"): {"FALSIFY-A-1[big]"},
    ("-m", "cpu"): {"FALSIFY-A-1[small]", "FALSIFY-A-2[small]"},
    ("-m", "not live"): {"FALSIFY-A-1[small]", "FALSIFY-A-2[small]"},
    ("-m", "teacher"): {"FALSIFY-A-1[big]"},
    ("-m", "nightly"): ALL,
    ("-k", "A-2"): {"FALSIFY-A-2[small]"},
    ("-k", "big"): {"FALSIFY-A-1[big]"},
}


@pytest.fixture
def lanes(project):
    project.file("contracts/one.yaml", LANES)
    project.captures()
    return project


@pytest.mark.parametrize("selection", SELECTIONS, ids=" ".join)
def test_marks_and_names_select(lanes, selection):
    ran = lanes.run("contracts", "--collect-only", "-q", "--strict-markers", *selection)

    found = {line.partition("::")[2] for line in ran.result.stdout.lines if "::" in line}
    assert found == SELECTIONS[selection]


def test_a_node_id_selects_one_item(lanes):
    ran = lanes.run("contracts/one.yaml::FALSIFY-A-1[small]")

    assert ran.outcomes == {"passed": 1}


def test_last_failed_runs_what_failed(lanes):
    lanes.pytester.makeini("[pytest]\naddopts = -p no:randomly")
    lanes.captures(FALSIFY_A_2=0.5)
    lanes.run("contracts", "-m", "cpu")

    ran = lanes.run("contracts", "--lf")

    assert ran.outcomes == {"failed": 1}


def test_without_falsify_contracts_are_not_collected(lanes):
    result = lanes.pytester.runpytest_subprocess("contracts")

    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_the_gpu_lane_without_a_gpu_skips_with_a_reason_and_promotes_nothing(lanes):
    pytest.importorskip("torch")
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")

    ran = lanes.run("contracts", "-m", "gpu", "-rs")

    assert ran.result.ret == 0
    assert ran.outcomes["skipped"] == 1
    ran.result.stdout.fnmatch_lines(
        ["SKIPPED * needs CUDA device 0, which is not here; to mend: *"]
    )
    assert ran.statuses() == {"FALSIFY-A-1": "BLOCKED", "FALSIFY-A-2": "UNTRIED"}
