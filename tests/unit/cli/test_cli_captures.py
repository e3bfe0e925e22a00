"""capture, inspect and compare, on the trained model: what they say and how they exit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from pytest_falsify.captures.aprt import aprt_path, write_aprt, write_aprt_file
from pytest_falsify.captures.bundle import read_bundle, write_bundle
from pytest_falsify.captures.manifest import MANIFEST
from pytest_falsify.captures.tensor_file import write_tensors
from pytest_falsify.cli import main
from pytest_falsify.cli.capturing import Progress
from pytest_falsify.stages.vocabulary import Site

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pytest_falsify.engines import sketching  # noqa: E402

PROJECTED = sketching._projected

TEXT = "The function returns a new list of the tokens that it was given, in order"
WITHIN, BEYOND, COULD_NOT = 0, 1, 2
MADE = {
    "eager": (),
    "sdpa": ("attention=sdpa",),
    "bf16": ("dtype=bfloat16",),
    "bf16-sdpa": ("dtype=bfloat16", "attention=sdpa"),
    "wrong-rope": ("config={rope_parameters: {rope_theta: 500.0}}",),
}


def run(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def capture_args(model, out, *options):
    given = [word for option in options for word in ("--option", option)]
    return ["capture", model, "--out", out, "--text", TEXT, *given]


@pytest.fixture(scope="module")
def made(tmp_path_factory, qwen2_tiny):
    """The captures of ``MADE``, by the command itself."""
    folder = tmp_path_factory.mktemp("captures")
    for name, options in MADE.items():
        result = run(*capture_args(qwen2_tiny, folder / name, *options))
        assert result.exit_code == 0, result.output
    return folder


def compare(*arguments):
    result = run("compare", *arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_run_is_bit_equal_to_itself(made):
    result = compare(made / "eager", made / "eager")

    assert result.exit_code == WITHIN
    assert "sites are bit-equal" in result.output


def test_without_a_word_on_what_is_allowed_a_difference_is_beyond_and_it_says_how_to_state_it(made):
    result = compare(made / "sdpa", made / "eager")

    assert result.exit_code == BEYOND
    assert "uncalibrated" in result.output
    assert "--expect" in result.output
    assert "--control" in result.output


def test_the_smallest_tolerance_that_would_pass_does_pass_and_less_does_not(made):
    told = json.loads(compare(made / "sdpa", made / "eager", "--format", "json").stdout)

    advised = told["would_pass"]
    assert compare(made / "sdpa", made / "eager", "--expect", advised).exit_code == WITHIN
    less = "{rel_l2: {max: 1e-9}}"
    assert (
        compare(made / "sdpa", made / "eager", "--expect", advised, "--expect", less).exit_code
        == BEYOND
    )


def test_half_precision_is_within_the_noise_of_half_precision(made):
    result = compare(made / "bf16-sdpa", made / "eager", "--control", made / "bf16")

    assert result.exit_code == WITHIN, result.output
    assert "no further from the oracle than the control" in result.output


def test_a_wrong_rotary_base_is_beyond_and_the_first_stage_is_named(made):
    for allowed in (["--control", made / "bf16"], ["--expect", "{rel_l2: {max: 1e-4}}"]):
        result = compare(made / "wrong-rope", made / "eager", *allowed)
        assert result.exit_code == BEYOND
        assert "the first is 0/0/q_post_rope" in result.output


def test_limits_come_from_a_file_and_later_ones_win(made, tmp_path):
    file = tmp_path / "limits.yaml"
    file.write_text("expect:\n  rel_l2: {max: 1e-9}\n")

    pair = (made / "sdpa", made / "eager")
    assert compare(*pair, "--expect", file).exit_code == BEYOND
    assert compare(*pair, "--expect", file, "--expect", "{rel_l2: {max: 1}}").exit_code == WITHIN


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{rel_l3: {max: 1}}", "unknown metric"),
        ("{rel_l2: 3}", "is not a limit"),
        ("{rel_l2: {max: 1", "--expect"),
        ("absent.yaml", "cannot be read"),
        ("{stages: {atn_out: {rel_l2: {max: 1}}}, rel_l2: {max: 1}}", "attn_out"),
    ],
)
def test_limits_that_cannot_be_read_are_no_pass(made, text, what):
    result = compare(made / "eager", made / "eager", "--expect", text)

    assert result.exit_code == COULD_NOT
    assert what in result.output


def test_missing_sites_are_never_a_pass_unless_left_out_on_request(made, tmp_path, qwen2_tiny):
    result = run(*capture_args(qwen2_tiny, tmp_path / "few"), "--stages", "attn_out,lm_head")
    assert result.exit_code == 0, result.output

    for pair in ((tmp_path / "few", made / "eager"), (made / "eager", tmp_path / "few")):
        refused, allowed = compare(*pair), compare(*pair, "--only-shared")
        assert refused.exit_code == COULD_NOT
        assert "planned sites are missing" in refused.output
        assert allowed.exit_code == WITHIN
        assert "left out" in allowed.output


def test_nothing_in_common_is_never_a_pass(tmp_path, made):
    write_tensors(tmp_path / "x.safetensors", {"layers.0.moe_ffn_out": np.ones((2, 4), np.float32)})

    result = compare(tmp_path / "x.safetensors", made / "eager", "--only-shared")

    assert result.exit_code == COULD_NOT
    assert "nothing was compared" in result.output


def test_other_inputs_are_never_a_pass(made, tmp_path, qwen2_tiny):
    run("capture", qwen2_tiny, "--out", tmp_path / "other", "--tokens", "1,2,3")

    result = compare(tmp_path / "other", made / "eager")

    assert result.exit_code == COULD_NOT
    assert "different tokens" in result.output


def test_a_damaged_bundle_is_never_a_pass(made, tmp_path):
    shutil.copytree(made / "eager", tmp_path / "b")
    path = tmp_path / "b" / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\1\2\3\4")

    for command in (["compare", tmp_path / "b", made / "eager"], ["inspect", tmp_path / "b"]):
        result = run(*command)
        assert result.exit_code == COULD_NOT
        assert "not those that were captured" in result.output


def test_an_aprt_tree_is_compared_with_a_bundle(made, tmp_path):
    write_aprt(read_bundle(made / "eager"), tmp_path / "tree")
    (tmp_path / "tree" / MANIFEST).unlink()

    result = compare(tmp_path / "tree", made / "eager")

    assert result.exit_code == WITHIN, result.output
    assert "does not say what it was fed" in result.output
    assert "state no shape" in result.output
    assert "0/-/lm_head: the last token alone" in result.output


def test_head_major_heads_in_a_file_without_a_shape_are_beyond_and_told(made, tmp_path):
    write_aprt(read_bundle(made / "eager"), tmp_path / "tree")
    (tmp_path / "tree" / MANIFEST).unlink()
    site = Site(0, 1, "q_post_rope")
    heads = read_bundle(made / "eager").tensors[site].array.transpose(1, 0, 2)
    path = tmp_path / "tree" / aprt_path(site)
    path.unlink()
    write_aprt_file(path, heads, layer=1)

    result = compare(tmp_path / "tree", made / "eager")
    honest = compare(made / "eager", made / "eager")

    assert result.exit_code == BEYOND
    assert "the subject seems to be head-major at 0/1/q_post_rope:" in result.output
    assert "head-major" not in honest.output


def test_a_nan_is_beyond_whatever_is_allowed(made, tmp_path):
    capture = read_bundle(made / "bf16")
    site = Site(0, 2, "attn_out")
    array = capture.tensors[site].array.copy()
    array[3, 3] = np.nan
    object.__setattr__(capture.tensors[site], "array", array)
    write_bundle(capture, tmp_path / "nan")

    for allowed in (["--expect", "{rel_l2: {max: 1e9}}"], ["--control", made / "bf16"], []):
        result = compare(tmp_path / "nan", made / "eager", *allowed, "-v")
        assert result.exit_code == BEYOND
        assert "0/2/attn_out" in result.output


def test_json_says_what_the_text_says_without_nan(made):
    pair = (made / "wrong-rope", made / "eager")
    result = compare(*pair, "--expect", "{ulp: {max: 1}}", "--format", "json")

    told = json.loads(result.stdout, parse_constant=pytest.fail)
    assert told["standing"] == "beyond"
    assert told["calibration"] == "uncalibrated"
    assert told["captures"].keys() == {"subject", "oracle"}
    assert len(told["sites"]) == len(read_bundle(made / "eager").tensors)


def test_the_plot_is_written_and_leaves_the_status_and_the_json_alone(made, tmp_path):
    result = compare(
        made / "sdpa", made / "eager", "--format", "json", "--plot", tmp_path / "d.svg"
    )

    assert result.exit_code == BEYOND
    assert (tmp_path / "d.svg").read_text(encoding="utf-8").startswith("<svg")
    json.loads(result.stdout)


def test_a_capture_says_how_it_came_to_be(made):
    told = json.loads(run("inspect", made / "bf16-sdpa", "--json").stdout)
    text = run("inspect", made / "bf16-sdpa").output

    assert told["identity"]["settings"]["attention"] == "sdpa"
    assert told["identity"]["versions"].keys() == {"torch", "transformers"}
    assert told["layers"] == [0, 1, 2, 3]
    assert "dtype=bfloat16" in text
    assert "all as they were written" in text


def test_one_site_is_told_in_the_singular(tmp_path, qwen2_tiny):
    wanted = ("--stages", "final_norm", "--tokens", "9")
    captured = run("capture", qwen2_tiny, "--out", tmp_path / "one", *wanted)
    inspected = run("inspect", tmp_path / "one")
    both = compare(tmp_path / "one", tmp_path / "one")

    assert captured.output == f"{tmp_path / 'one'}: 1 site, 6.7 kB\n"
    assert "1 site, " in inspected.output
    assert "1 token: 9" in inspected.output
    assert "1 site is bit-equal" in both.output


def test_the_plan_of_a_capture_is_what_was_asked_for(tmp_path, qwen2_tiny):
    result = run(
        *capture_args(qwen2_tiny, tmp_path / "c"),
        *("--stages", "lm_head,attn_out", "--layers", "1..3", "--decode-steps", "2"),
    )

    assert result.exit_code == 0, result.output
    capture = read_bundle(tmp_path / "c")
    assert {str(site) for site in capture.tensors} == {
        f"{step}/{rest}" for step in range(3) for rest in ("1/attn_out", "2/attn_out", "-/lm_head")
    }
    assert len(capture.continuation) == 2
    assert len(capture.logits) == 3


def test_a_capture_in_a_file_of_text_is_the_same_capture(made, tmp_path, qwen2_tiny):
    (tmp_path / "prompt.txt").write_text(TEXT, encoding="utf-8")
    result = run(
        "capture", qwen2_tiny, "--out", tmp_path / "c", "--file", tmp_path / "prompt.txt", "--aprt"
    )

    assert result.exit_code == 0, result.output
    assert compare(tmp_path / "c", made / "eager").exit_code == WITHIN


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--text", "a", "--tokens", "1"], "2 of --text"),
        ([], "0 of --text"),
        (["--tokens", "1,x"], "token ids"),
        (["--text", "a", "--stages", "atn_out"], "attn_out"),
        (["--text", "a", "--layers", "3..1"], "names no layers"),
        (["--text", "a", "--layers", "9"], "out of range"),
        (["--text", "a", "--option", "dtype"], "gives no value"),
        (["--text", "a", "--option", "dtype=float8"], "dtype"),
        (["--text", "a", "--option", "colour=red"], "colour"),
        (["--text", "a", "--engine", "none"], "unknown engine"),
        (["--text", "a", "--device", "tpu"], "unknown device"),
        (["--text", "a", "--aprt", "--decode-steps", "1"], "decode steps"),
        (["--text", "a", "--aprt", "--keep", "sketches"], "no place for sketches"),
        (["--text", "a", "--aprt", "--keep", "statistics"], "no place for statistics"),
    ],
)
def test_what_cannot_be_captured_is_said_and_nothing_is_left(tmp_path, qwen2_tiny, arguments, what):
    result = run("capture", qwen2_tiny, "--out", tmp_path / "c", *arguments)

    assert result.exit_code == COULD_NOT
    assert what in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_capture_gives_way_only_when_asked(made, tmp_path, qwen2_tiny):
    shutil.copytree(made / "sdpa", tmp_path / "c")

    taken = run(*capture_args(qwen2_tiny, tmp_path / "c"))
    assert taken.exit_code == COULD_NOT
    assert "to mend: name another folder, or let it give way: --replace" in taken.output
    assert compare(tmp_path / "c", made / "sdpa").exit_code == WITHIN
    assert run(*capture_args(qwen2_tiny, tmp_path / "c"), "--replace").exit_code == 0
    assert compare(tmp_path / "c", made / "eager").exit_code == WITHIN


def test_progress_is_silent_for_two_seconds_and_takes_its_line_away(capsys):
    now = [0.0]
    progress = Progress(total=3, clock=lambda: now[0])
    for seconds in (1.0, 2.5, 2.6):
        now[0] = seconds
        progress.step(Site(0, 1, "attn_out"))
    assert capsys.readouterr().err.count("\r") == 1
    progress.end()
    assert capsys.readouterr().err == "\r\033[K"

    quick = Progress(total=1, clock=lambda: 0.0)
    quick.step(Site(0, 1, "attn_out"))
    quick.end()
    assert capsys.readouterr().err == ""


def test_forced_tokens_and_positions_are_kept_with_the_capture(qwen2_tiny, tmp_path):
    out = tmp_path / "forced"
    result = run(
        "capture", qwen2_tiny, "--out", out, "--tokens", "5,6,7", "--stages", "attn_out",
        "--positions", "last", "--decode-steps", "2", "--forced", "9,8",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    found = read_bundle(out)
    assert found.inputs.forced == (9, 8)
    assert found.plan.positions == (-1,)
    assert [each.positions for each in found.tensors.values()] == [(2,)] * 4 + [(3,)] * 4 + [
        (4,)
    ] * 4


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--positions", "first", "names no positions"),
        ("--positions", "3", "position 3 is out of range"),
        ("--forced", "9,x", "no token ids"),
        ("--forced", "9", "forces 1 token"),
        ("--stages", "atn_out", "did you mean `attn_out`"),
        ("--stages", "", "unknown stage"),
        ("--layers", "4", "out of range"),
        ("--layers", "2..2", "names no layers"),
        ("--layers", "", "names no layers"),
    ],
)
def test_what_cannot_be_captured_is_refused_and_leaves_nothing(
    qwen2_tiny, tmp_path, option, value, words
):
    asked = ("--tokens", "5,6,7", "--decode-steps", "2", option, value)

    result = run("capture", qwen2_tiny, "--out", tmp_path / "new", *asked)

    assert result.exit_code == COULD_NOT
    assert words in result.output
    assert list(tmp_path.iterdir()) == []


def test_sketches_are_small_and_a_golden_comparison_needs_no_oracle(made, tmp_path, qwen2_tiny):
    golden = tmp_path / "golden"
    result = run(*capture_args(qwen2_tiny, golden), "--keep", "sketches")
    assert result.exit_code == 0, result.output
    live = made / "eager" / "tensors.safetensors"

    assert (golden / "tensors.safetensors").stat().st_size * 5 < live.stat().st_size
    near = compare(made / "sdpa", golden, "--expect", "{rel_l2: {max: 1e-4}}")
    far = compare(made / "wrong-rope", golden, "--expect", "{rel_l2: {max: 1e-4}}")
    assert (near.exit_code, far.exit_code) == (WITHIN, BEYOND)
    assert "estimated from sketches" in near.output
    assert "the first is 0/0/q_post_rope" in far.output
    unstated = compare(made / "eager", golden)
    assert unstated.exit_code == COULD_NOT
    assert "one side is a sketch, which cannot tell whether bits are equal" in unstated.output
    assert "state it with --expect '{rel_l2: {max: ...}}'" in unstated.output


def test_sketches_are_asked_of_the_engine_which_makes_them_where_the_tensors_are(
    tmp_path, qwen2_tiny, monkeypatch
):
    made = []
    monkeypatch.setattr(sketching, "_projected", lambda *given: made.append(1) or PROJECTED(*given))

    result = run(*capture_args(qwen2_tiny, tmp_path / "s"), "--keep", "sketches")

    assert result.exit_code == 0, result.output
    sites = read_bundle(tmp_path / "s").tensors
    assert len(made) == len(sites) + 2 * sum(site.stage == "qkv_bias" for site in sites)


@pytest.mark.parametrize("keep", ["tensors", "sketches"])
def test_what_a_layer_does_not_have_is_not_missed(tmp_path, keep):
    """The first layer has no experts, and the second has nothing else."""
    config = transformers.Qwen2MoeConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=24, shared_expert_intermediate_size=40, mlp_only_layers=[0],
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")

    result = run(
        "capture", tmp_path / "model", "--tokens", "1,2,3", "--out", tmp_path / "c", "--keep", keep
    )

    assert result.exit_code == 0, result.output
    assert "missing" not in result.output
    found = read_bundle(tmp_path / "c")
    assert found.missing == ()
    assert Site(0, 1, "moe_router") in found.tensors
    assert Site(0, 0, "moe_router") not in found.tensors


def test_statistics_alone_are_kept_on_request(tmp_path, qwen2_tiny):
    result = run(*capture_args(qwen2_tiny, tmp_path / "s"), "--keep", "statistics")

    assert result.exit_code == 0, result.output
    assert "missing" not in result.output
    assert list((tmp_path / "s").iterdir()) == [tmp_path / "s" / MANIFEST]
    told = json.loads(run("inspect", tmp_path / "s", "--json").output)
    sites = {each["site"]: each for each in told["sites"]}
    assert list(sites)[0::58] == ["0/-/embedding", "0/-/lm_head"]
    assert sites["0/-/lm_head"]["nonfinite"] == 0
    assert sites["0/3/attn_norm"]["rms"] > 0
    shown = run("inspect", tmp_path / "s" / MANIFEST).output
    assert "\n  0/3/attn_norm           18x128   float32 " in shown
    assert f" {sites['0/3/attn_norm']['rms']:.4g} " in shown
    refused = run("compare", tmp_path / "s", tmp_path / "s")
    assert refused.exit_code == COULD_NOT
    assert "the statistics of a run are here, and none of its tensors" in refused.output
    assert "look at them with `inspect`" in refused.output
