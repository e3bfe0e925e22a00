"""The commands about routing, on the trained mixture of experts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("transformers")

from pytest_falsify.cli import main

MODEL = Path(__file__).parents[3] / "fixtures" / "models" / "olmoe-tiny"
# In bfloat16 token 19 of this text is a near-tie of two experts.
TEXT = (
    "The function returns a new list with the items of the iterable in sorted order. If the file "
    "does not exist, an exception is raised and the value is returned."
)
RUNS = {
    "oracle": ("experts=eager",),
    "subject": ("dtype=bfloat16", "attention=sdpa"),
    "control": ("dtype=bfloat16", "experts=eager"),
}


def run(*arguments, status=0):
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name, options in RUNS.items():
        more = [word for each in options for word in ("--option", each)]
        given = ("--text", TEXT, "--decode-steps", 4, *more)
        run("record", MODEL, "--runs", root, "--run-id", name, *given)
    return root


def test_a_recorded_run_is_inspected(runs):
    told = run("inspect", runs / "oracle")
    assert "routing/v1, full_run" in told
    assert "everywhere what the gate makes of the logits" in told
    body = json.loads(run("inspect", runs / "oracle", "--json"))
    assert [each["num_total_experts"] for each in body["layers"]] == [16] * 3
    tokens = body["token_span"][1]
    assert [sum(each["load"]) for each in body["layers"]] == [4 * tokens] * 3
    assert body["prompt_text"] == TEXT
    assert body["raw_events"] == tokens
    assert set(body["optional_artifacts"].values()) == {False}
    assert body["capture_config"]["weights"].startswith("sha256:")


def test_runs_are_compared_and_drawn(runs, tmp_path):
    picture = tmp_path / "difference.svg"
    told = run(
        "inspect", runs / "subject", "--against", runs / "oracle",
        "--control", runs / "control", "--plot", picture,
    )  # fmt: skip
    assert "1 tie, 0 flip" in told
    assert "tie: token 19, layer 0" in told
    assert "What differs from the other run" in picture.read_text()


def test_the_exit_status_says_what_noise_does_not_explain(runs):
    told = run("inspect", runs / "subject", "--against", runs / "oracle", "--json", status=1)
    assert json.loads(told)["against"]["objections"]


def test_what_is_derived_is_verified(runs, tmp_path):
    shutil.copytree(runs / "oracle", tmp_path / "oracle")
    assert "motifs of whole tokens" in run("derive", tmp_path / "oracle")
    assert "made again, and the same" in run("inspect", tmp_path / "oracle")


def test_the_older_profile_is_written_and_read(tmp_path):
    given = ("--text", TEXT, "--decode-steps", 1, "--profile", "full_run/v0.1.0")
    run("record", MODEL, "--runs", tmp_path, "--run-id", "group/old", *given)
    assert "full_run/v0.1.0" in run("inspect", tmp_path / "group" / "old")


def test_a_run_elsewhere_is_taken_on_demand(runs, tmp_path):
    shutil.copytree(runs / "oracle", tmp_path / "copy")
    assert "folder_name_mismatch" in run("inspect", tmp_path / "copy", status=2)
    run("inspect", tmp_path / "copy", "--anywhere")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--run-id", "x"), "give one of --text and --tokens"),
        (("--run-id", "../x", "--text", "a"), "cannot name a run"),
    ],
)
def test_mistakes_are_told_without_a_traceback(tmp_path, arguments, what):
    told = run("record", MODEL, "--runs", tmp_path, *arguments, status=2)
    assert what in told


def test_a_model_without_experts_is_refused(tmp_path):
    dense = MODEL.parent / "qwen2-tiny"
    told = run("record", dense, "--runs", tmp_path, "--run-id", "x", "--text", "a", status=2)
    assert "moe_router_logits" in told


def test_a_plot_of_a_capture_is_refused(tmp_path):
    assert "this is no routing run" in run("inspect", tmp_path, "--plot", "a.svg", status=2)
