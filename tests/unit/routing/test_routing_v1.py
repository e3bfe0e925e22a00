"""The profile routing/v1: every value comes back, and nothing that was touched is believed."""

from __future__ import annotations

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_support import GATES, make_routing, timed

from pytest_falsify.canonical import canonical_text, digest
from pytest_falsify.captures.tensor_file import read_tensors, write_tensors
from pytest_falsify.errors import CaptureError
from pytest_falsify.routing.issue import InvalidRun
from pytest_falsify.routing.routing_v1 import TENSORS, bytes_digest, write_routing
from pytest_falsify.routing.run import read_run


@pytest.fixture
def routing():
    return timed(make_routing(8), np.arange(8), np.arange(8) + 1)


@pytest.fixture
def folder(routing, tmp_path):
    return write_routing(routing, tmp_path)


def resealed(folder, change):
    """Change the manifest and seal it again, as somebody who means it would."""
    body = json.loads((folder / "manifest.json").read_text())
    change(body)
    content = {key: value for key, value in body.items() if key != "digest"}
    text = canonical_text({**content, "digest": digest(content)})
    (folder / "manifest.json").write_text(text)


def retensored(folder, change):
    """Change the tensors, with digests that fit."""
    arrays = {name: np.array(each) for name, each in read_tensors(folder / TENSORS).items()}
    change(arrays)
    (folder / TENSORS).unlink()
    write_tensors(folder / TENSORS, arrays)
    fresh = bytes_digest(folder / TENSORS)
    resealed(folder, lambda body: body["files"].update({TENSORS: fresh}))


def codes(folder):
    with pytest.raises(InvalidRun) as caught:
        read_run(folder)
    return caught.value.codes


@settings(max_examples=25)
@given(
    gate=st.sampled_from(sorted(GATES)),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 3)),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    start=st.integers(0, 5),
)
def test_whatever_is_written_comes_back(tmp_path_factory, gate, sizes, dtype, start):
    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    routing = replace(make_routing(*sizes, gate=GATES[gate], dtype=dtype), start=start)
    found = read_run(write_routing(routing, tmp_path_factory.mktemp("runs"))).routing

    assert routing.facts == found.facts
    assert routing.start == found.start
    assert routing.tokens.texts == found.tokens.texts
    for index, layer in routing.layers.items():
        again = found.layers[index]
        assert layer.gate == again.gate
        assert (layer.logits.dtype, layer.logits.tobytes()) == (
            again.logits.dtype,
            again.logits.tobytes(),
        )
        assert np.array_equal(layer.indices, again.indices)
        assert layer.weights.tobytes() == again.weights.tobytes()


def test_an_honest_run_stores_no_recomputed_choice(folder):
    tensors = read_tensors(folder / TENSORS)
    assert [tensors[f"layers/{index}/recomputed_rows"].tolist() for index in range(3)] == [[]] * 3


def test_dispatched_and_recomputed_stand_side_by_side_where_they_differ(routing, tmp_path):
    layer = routing.layers[1]
    ids = np.array(layer.indices)
    ids[5] = np.argsort(layer.logits[5])[: layer.active]
    wrong = replace(routing, layers={**routing.layers, 1: replace(layer, indices=ids)})
    folder = write_routing(wrong, tmp_path)
    tensors = read_tensors(folder / TENSORS)

    assert tensors["layers/1/recomputed_rows"].tolist() == [5]
    assert tensors["layers/1/recomputed_indices"][0].tolist() == layer.indices[5].tolist()
    assert read_run(folder).routing.layers[1].indices[5].tolist() == ids[5].tolist()


def test_a_recomputed_choice_that_is_none_is_refused(folder):
    def change(arrays):
        arrays["layers/0/recomputed_rows"] = np.array([2], np.int32)
        for name in ("indices", "weights"):
            whole = arrays[f"layers/0/{name}"]
            kind = arrays[f"layers/0/recomputed_{name}"].dtype
            arrays[f"layers/0/recomputed_{name}"] = whole[2:3].astype(kind)

    retensored(folder, change)
    assert codes(folder) == ("recomputed_mismatch",)


def test_a_segment_keeps_its_place_in_the_run(routing, tmp_path):
    piece = routing.rows(3, 6)
    found = read_run(write_routing(piece, tmp_path))

    assert found.manifest["bundle_kind"] == "contiguous_segment"
    assert found.manifest["token_span"] == {"start_index": 3, "end_index_exclusive": 6}
    assert found.routing.start == 3
    assert routing.tokens.ids[3:6].tolist() == found.routing.tokens.ids.tolist()


def test_a_segment_is_no_full_run(routing, folder, tmp_path):
    with pytest.raises(CaptureError, match="a full run begins at token 0"):
        write_routing(routing.rows(3, 6), tmp_path, kind="full_run")

    def change(body):
        body["token_span"] = {"start_index": 3, "end_index_exclusive": 11}

    resealed(folder, change)
    assert "token_span_invalid" in codes(folder)


def test_every_changed_byte_is_noticed(folder):
    for name in (TENSORS, "raw_trace.ndjson", "layout.json"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        assert codes(folder) == ("file_digest_mismatch",), name
        (folder / name).write_bytes(data)
    read_run(folder)


def test_an_edited_manifest_is_noticed(folder):
    text = (folder / "manifest.json").read_text().replace('"model_id": "m"', '"model_id": "x"')
    (folder / "manifest.json").write_text(text)
    assert codes(folder) == ("manifest_digest_mismatch",)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda a: a["layers/0/indices"].fill(17), "topk_index_out_of_bounds"),
        (lambda a: a["layers/0/indices"].fill(3), "duplicate_topk_index"),
        (lambda a: a["layers/0/logits"].__setitem__((2, 1), np.nan), "not_finite"),
        (lambda a: a["tokens/starts"].__setitem__(4, 0), "decode_time_not_monotone"),
        (lambda a: a["tokens/contexts"].__setitem__(4, 1), "context_length_not_monotone"),
        (lambda a: a["tokens/ids"].__setitem__(4, 99), "token_id_mismatch"),
        (lambda a: a.pop("layers/2/weights"), "tensor_set_mismatch"),
        (lambda a: a.update({"layers/9/logits": np.zeros(3)}), "tensor_set_mismatch"),
        (lambda a: a.update({"tokens/ids": np.zeros(3, np.int32)}), "tensor_shape_mismatch"),
    ],
)
def test_values_that_cannot_be_are_refused_even_when_sealed(folder, change, code):
    retensored(folder, change)
    assert code in codes(folder)


def test_sixteen_experts_may_drop_a_place_and_send_to_no_seventeenth(folder):
    retensored(folder, lambda a: a["layers/0/indices"].__setitem__((slice(None), 3), 16))
    assert codes(folder) == ("recomputed_mismatch",)  # and not out of bounds: 16 is "dropped"


def test_what_no_run_may_hold_is_not_written(routing, tmp_path):
    layer = routing.layers[0]
    logits = np.array(layer.logits)
    logits[1, 1] = np.inf
    broken = replace(routing, layers={0: replace(layer, logits=logits)})
    with pytest.raises(InvalidRun, match="not_finite: layer 0"):
        write_routing(broken, tmp_path)
    undated = replace(routing, facts=replace(routing.facts, created_at="yesterday"))
    with pytest.raises(InvalidRun, match="`yesterday` is no date"):
        write_routing(undated, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_stray_file_is_refused(folder):
    (folder / "notes.txt").write_text("mine")
    assert codes(folder) == ("stray_file",)


def test_a_missing_line_of_the_trace_is_refused_with_its_place(folder):
    lines = (folder / "raw_trace.ndjson").read_text().splitlines(keepends=True)
    (folder / "raw_trace.ndjson").write_text("".join(lines[:3] + lines[4:]))
    fresh = bytes_digest(folder / "raw_trace.ndjson")
    resealed(folder, lambda body: body["files"].update({"raw_trace.ndjson": fresh}))
    with pytest.raises(InvalidRun, match=r"raw_trace.ndjson:4: raw_token_index_sequence_invalid"):
        read_run(folder)


def test_an_unknown_recomputation_is_not_believed(folder):
    resealed(folder, lambda body: body.update(recompute_version="gate/v9"))
    assert codes(folder) == ("recompute_version_unknown",)


def test_a_manifest_without_its_prompt_names_the_key(folder):
    resealed(folder, lambda body: body.pop("prompt"))
    with pytest.raises(InvalidRun, match="`prompt` is missing"):
        read_run(folder)


def test_it_takes_at_most_a_fifth_more_than_the_raw_floats(tmp_path):
    routing = make_routing(200, layers=16, experts=64, active=8)
    folder = write_routing(routing, tmp_path)
    size = sum(each.stat().st_size for each in folder.iterdir())
    raw = sum(each.logits.nbytes for each in routing.layers.values())
    assert size <= 1.2 * raw
