"""trace: which leg made a difference, of captures, of dumps of caches, and of others' traces."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from pytest_falsify.captures.bundle import write_bundle
from pytest_falsify.captures.dump import read_dump
from pytest_falsify.cli import main
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import TRANSFER, Site

WITHIN, BEYOND, UNDECIDED = 0, 1, 2
POINTS = ("after_prefill", "after_transfer", "during_decode")


def run(*arguments, status):
    result = CliRunner().invoke(main, ["trace", *map(str, arguments)])
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result.output


def dumped(folder, name, *, change=None, points=POINTS):
    """Write a dump of two layers, 2 heads, 5 tokens, 4 channels, as the field's tool does."""
    dice = np.random.default_rng(4)
    arrays = {
        f"layer_{layer}_{point}_{half}": dice.normal(size=(2, 5, 4)).astype(np.float16)
        for layer in range(2)
        for point in POINTS
        for half in ("key", "value")
    }
    if change:
        arrays[change] = arrays[change] + np.float16(0.5)
    kept = {key: each for key, each in arrays.items() if any(point in key for point in points)}
    path = folder / f"{name}.npz"
    np.savez(path, metadata=np.array(json.dumps({"mode": "live"})), **kept)
    return path


def traced(folder, *comparisons):
    keys = ("hook_point", "layer", "step", "max_abs_diff", "cosine_similarity")
    body = {
        "comparisons": [
            dict(zip(keys, each, strict=True)) | {"field_name": "hidden_states", "threshold": 1e-5}
            for each in comparisons
        ]
    }
    path = folder / "trace.json"
    path.write_text(json.dumps(body))
    return path


def test_equal_dumps_are_within(tmp_path):
    output = run(dumped(tmp_path, "a"), dumped(tmp_path, "b"), status=WITHIN)
    assert output.startswith("leg: none (12 sites are bit-equal)")


@pytest.mark.parametrize(
    ("change", "leg", "what"),
    [
        ("layer_1_after_prefill_key", "prefill", ["prefill", "0", "1", "k_cache"]),
        ("layer_0_after_transfer_value", "transfer", ["transfer", "0", "0", "v_cache"]),
        ("layer_1_during_decode_value", "decode", ["decode", "1", "1", "v_cache"]),
    ],
)
def test_the_leg_of_a_difference_is_named(tmp_path, change, leg, what):
    pair = dumped(tmp_path, "a"), dumped(tmp_path, "b", change=change)
    output = run(*pair, status=BEYOND)
    assert output.startswith(f"leg: {leg} (")
    (line,) = (each for each in output.splitlines() if "beyond at" in each)
    assert line.split()[:4] == what

    body = json.loads(run(*pair, "--format", "json", status=BEYOND))
    assert body["leg"] == leg
    assert [each["what"] for each in body["stages"] if each["is_beyond"]] == what[3:]


def test_what_is_allowed_can_be_said(tmp_path):
    pair = dumped(tmp_path, "a"), dumped(tmp_path, "b", change="layer_0_after_transfer_key")
    run(*pair, "--expect", "{max_abs: {max: 0.6}}", status=WITHIN)
    run(*pair, "--expect", "{max_abs: {max: 0.4}}", status=BEYOND)


def test_a_point_that_one_side_lacks_is_undecided(tmp_path):
    less = dumped(tmp_path, "b", points=POINTS[:2])
    assert run(dumped(tmp_path, "a"), less, status=UNDECIDED).startswith("leg: undecided (")


def test_a_dump_is_a_capture_that_a_bundle_can_hold(tmp_path):
    dump = dumped(tmp_path, "a")
    capture = read_dump(dump)
    assert Site(TRANSFER, 1, "v_cache") in capture.tensors
    write_bundle(capture, tmp_path / "bundle")
    assert run(tmp_path / "bundle", dump, status=WITHIN).startswith("leg: none")


def test_a_dump_can_be_compared_as_any_capture(tmp_path):
    pair = dumped(tmp_path, "a"), dumped(tmp_path, "b", change="layer_1_after_transfer_key")
    result = CliRunner().invoke(main, ["compare", *map(str, pair)])
    assert result.exit_code == BEYOND, result.output
    assert "transfer/1/k_cache" in result.output


def test_what_is_no_dump_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", hidden=np.zeros((2, 3, 4)))
    with pytest.raises(CaptureError, match="`hidden` is no cache"):
        read_dump(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", metadata=np.array("{}"))
    with pytest.raises(CaptureError, match="holds no cache"):
        read_dump(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", layer_0_after_prefill_key=np.zeros((2, 3)))
    with pytest.raises(CaptureError, match=r"float64 of shape \[2, 3\]"):
        read_dump(tmp_path / "c.npz")


def test_a_trace_is_put_into_causal_order(tmp_path):
    path = traced(
        tmp_path,
        ("decode_step", 0, 9, 1.0, 0.5),
        ("decode_step", 3, 0, 1.0, 0.5),
        ("kv_transfer", 0, None, 0.0, 1.0),
        ("prefill", 0, None, 0.0, 1.0),
    )
    output = run(path, status=BEYOND)
    assert output.startswith("leg: decode (2 of 4 comparisons are beyond their thresholds)")
    beyond = [line.split()[:3] for line in output.splitlines() if line.endswith("beyond")]
    assert beyond == [["decode", "1", "3"], ["decode", "10", "0"]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_beyond(tmp_path, value):
    path = traced(tmp_path, ("prefill", 0, None, value, 1.0))
    assert run(path, status=BEYOND).startswith("leg: prefill")
    assert json.loads(run(path, "--format", "json", status=BEYOND))["leg"] == "prefill"


def test_a_trace_of_nothing_is_undecided(tmp_path):
    assert run(traced(tmp_path), status=UNDECIDED).startswith(
        "leg: undecided (nothing was compared)"
    )


def test_what_is_no_trace_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    told = run(tmp_path / "a.json", status=UNDECIDED)
    assert "it is neither a trace nor a report: KeyError: 'comparisons'" in told
    assert "nothing to compare" in run(dumped(tmp_path, "a"), status=UNDECIDED)


def report(folder, *, differing, total, **more):
    results = [{"sample_id": str(n), "exact_match": n >= differing} for n in range(total)]
    path = folder / "report.json"
    path.write_text(json.dumps({"total_samples": total, "results": results, **more}))
    return path


@pytest.mark.parametrize(
    ("differing", "total", "limit", "status"),
    [
        (0, 400, "0.01", WITHIN),
        (0, 40, "0.01", UNDECIDED),
        (6, 400, "0.01", UNDECIDED),
        (20, 400, "0.01", BEYOND),
    ],
)
def test_a_batch_is_judged_by_the_whole_interval_of_its_rate(
    tmp_path, differing, total, limit, status
):
    path = report(tmp_path, differing=differing, total=total, schema_version=2)
    assert f"{differing} of {total} (" in run(path, "--max-rate", limit, status=status)


def test_without_a_limit_no_sample_may_differ(tmp_path):
    run(report(tmp_path, differing=0, total=9), status=WITHIN)
    output = run(report(tmp_path, differing=1, total=9), status=BEYOND)
    assert output.startswith("leg: undecided (1 of 9 (0.111, 95% interval 0.0199 to 0.435)")
    run(report(tmp_path, differing=0, total=0), status=UNDECIDED)


def test_a_report_that_is_newer_or_not_whole_is_refused(tmp_path):
    newer = report(tmp_path, differing=0, total=3, schema_version=3)
    assert "the report is of version 3" in run(newer, status=UNDECIDED)
    cut = report(tmp_path, differing=0, total=3)
    body = json.loads(cut.read_text())
    cut.write_text(json.dumps({**body, "total_samples": 4}))
    assert "tells of 3 samples and counts 4" in run(cut, status=UNDECIDED)
