"""compare --align: files in another layout, on the trained model."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from pytest_falsify.captures.bundle import read_bundle
from pytest_falsify.cli import main

pytest.importorskip("torch")
pytest.importorskip("transformers")

WITHIN, BEYOND = 0, 1
QUERY = "q_post_rope"
NAMED = "{stages: [q_post_rope], rename: {dims: t d}}"
WRITTEN = {
    "major": (lambda x: x.transpose(1, 0, 2), "{stages: [q_post_rope], rename: {dims: h t d}}"),
    "flat": (
        lambda x: x.transpose(1, 0, 2).ravel(),
        "{stages: [q_post_rope], order: {dims: h t d}}",
    ),
    "packed": (
        lambda x: x.reshape(len(x), -1),
        f"{NAMED}, {{stages: [q_post_rope], split: {{axis: d, into: [h, d], outer: 4}}}}",
    ),
}


def run(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory, qwen2_tiny):
    """The oracle as a bundle, and its tensors as npy with the heads of q in other layouts."""
    folder = tmp_path_factory.mktemp("layouts")
    asked = ["--text", "one two three four five six", "--stages", "q_post_rope,attn_out"]
    result = run("capture", qwen2_tiny, "--out", folder / "oracle", *asked)
    assert result.exit_code == 0, result.output
    for name, (laid, _) in WRITTEN.items():
        for site, tensor in read_bundle(folder / "oracle").tensors.items():
            path = folder / name / f"layer-{site.layer}" / f"{site.stage}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, laid(tensor.array) if site.stage == QUERY else tensor.array)
    return folder


@pytest.mark.parametrize("layout", WRITTEN)
def test_files_in_another_layout_are_bit_equal_once_they_are_brought_into_shape(made, layout):
    plain = run("compare", made / layout, made / "oracle")
    assert plain.exit_code != WITHIN
    align = f"{{subject: [{WRITTEN[layout][1]}]}}"
    found = run("compare", made / layout, made / "oracle", "--align", align, "--format", "json")
    assert found.exit_code == WITHIN, found.output
    assert any("brought into shape" in note for note in json.loads(found.stdout)["notes"])


def test_a_file_can_hold_the_steps_as_a_falsifier_does(made, tmp_path):
    path = tmp_path / "align.yaml"
    path.write_text(f"align:\n  subject:\n  - {WRITTEN['major'][1]}\n")
    assert run("compare", made / "major", made / "oracle", "--align", path).exit_code == WITHIN


def test_the_note_on_head_major_files_is_the_step_that_mends_them(made):
    told = run("compare", made / "flat", made / "oracle")
    assert told.exit_code == BEYOND
    note = next(line for line in told.output.splitlines() if "head-major" in line)
    align = note.partition("--align '")[2].rstrip("'")
    assert run("compare", made / "flat", made / "oracle", "--align", align).exit_code == WITHIN


def test_a_wrong_alignment_is_refused_with_both_sides(made):
    wrong = f"{{subject: [{WRITTEN['packed'][1].replace('4', '5')}]}}"
    found = run("compare", made / "packed", made / "oracle", "--align", wrong)
    assert found.exit_code not in {WITHIN, BEYOND}
    text = found.output + str(found.exception)
    assert "step 2 of the subject's `align`" in text
    assert "oracle:  dims `t h d`" in text
