"""An APRT tree gives back the bits that were written, and a file of another run is found out."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from captures_support import BFLOAT16, SITES, assert_same, make_capture, make_tensor
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.captures.aprt import (
    WHOLE_MODEL,
    aprt_path,
    read_aprt,
    read_aprt_file,
    read_single,
    write_aprt,
    write_aprt_file,
)
from pytest_falsify.captures.manifest import MANIFEST
from pytest_falsify.captures.unstated import FLAT, agreed
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.errors import AlignmentError, CaptureError
from pytest_falsify.stages.vocabulary import Site

EMBEDDING, Q, ATTN_OUT, *_, LM_HEAD = SITES


@pytest.fixture
def tree(tmp_path):
    write_aprt(make_capture(), tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def foreign(tree):
    """The same tree as another program writes it: without a manifest."""
    (tree / MANIFEST).unlink()
    return tree


@given(st.binary(max_size=64), st.sampled_from([0, 3, WHOLE_MODEL]))
def test_every_bit_of_a_file_comes_back(data, layer):
    values = np.frombuffer(data[: len(data) // 4 * 4], np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "attn_out.bin"
        write_aprt_file(path, values, layer=layer)
        found_layer, found = read_aprt_file(path)
        assert layer == found_layer
        assert values.tobytes() == found.tobytes()
        assert path.stat().st_size == 12 + values.nbytes


def test_a_file_is_laid_out_as_the_field_lays_it_out(tmp_path):
    write_aprt_file(tmp_path / "x.bin", np.array([1.5, -0.0], np.float32), layer=7)

    assert (tmp_path / "x.bin").read_bytes() == b"APRT" + struct.pack("<IIff", 7, 2, 1.5, -0.0)


def test_a_tree_is_laid_out_as_the_field_lays_it_out(tree):
    files = {path.relative_to(tree).as_posix() for path in tree.rglob("*.bin")}

    assert files == {
        "layer-0/embedding.bin",
        "layer-0/q_post_rope.bin",
        "layer-0/attn_out.bin",
        "layer-1/attn_out.bin",
        "final_norm.bin",
        "lm_head.bin",
    }
    assert read_aprt_file(tree / "layer-0/embedding.bin")[0] == 0
    assert read_aprt_file(tree / "layer-1/attn_out.bin")[0] == 1
    assert read_aprt_file(tree / "final_norm.bin")[0] == WHOLE_MODEL


def test_our_own_tree_comes_back_bit_for_bit_but_for_what_aprt_has_no_place_for(tmp_path):
    sites = [site for site in SITES if site != LM_HEAD]
    odd = np.frombuffer(bytes.fromhex("0100807f010080ff00000080ffffff7f") * 3, np.float32)
    tensors = {site: make_tensor(site) for site in sites}
    tensors[ATTN_OUT] = make_tensor(ATTN_OUT, array=odd.reshape(3, 4))
    capture = make_capture(tensors=tensors)

    write_aprt(capture, tmp_path / "tree")

    assert_same(capture, read_aprt(tmp_path / "tree"))


def test_ids_come_back_as_ids(tmp_path):
    site = Site(0, 0, "moe_router_indices")
    ids = make_tensor(site, array=np.array([[5, 0], [3, 1], [60, 2]]))

    write_aprt(make_capture(tensors={site: ids}), tmp_path / "tree")

    found = read_aprt(tmp_path / "tree").tensors[site]
    assert (found.array.dtype, found.array.tolist()) == (np.int64, [[60, 2]])
    subject, oracle = agreed([read_aprt(tmp_path / "tree"), make_capture(tensors={site: ids})])
    assert compare_captures(subject, oracle).at(site).is_identical


def test_bfloat16_becomes_float32_by_its_bits(tmp_path):
    bits = np.array([0x7F81, 0xFFC1, 0x8000, 0x3FC0] * 3, np.uint16)
    site = Site(0, 0, "attn_out")
    half = make_tensor(site, array=bits.view(BFLOAT16).reshape(3, 4))

    write_aprt(make_capture(tensors={site: half}), tmp_path / "tree")

    _, found = read_aprt_file(tmp_path / "tree" / aprt_path(site))
    assert found.view(np.uint32).tolist() == (bits.astype(np.uint32) << 16).tolist()


def test_head_major_heads_are_written_token_major(tmp_path):
    token_major = make_tensor(Q)
    head_major = make_tensor(Q, array=token_major.array.transpose(1, 0, 2))
    object.__setattr__(head_major, "dims", "h t d")

    write_aprt(make_capture(tensors={Q: head_major}), tmp_path / "tree")

    _, found = read_aprt_file(tmp_path / "tree" / aprt_path(Q))
    assert found.tobytes() == token_major.array.tobytes()


def test_lm_head_is_written_for_the_last_token_and_compared_with_that_token(foreign):
    oracle = make_capture()
    subject = read_aprt(foreign)
    assert subject.tensors[LM_HEAD].array.size == oracle.tensors[LM_HEAD].array[-1].size

    comparison = compare_captures(*agreed([subject, oracle]))

    assert comparison.at(LM_HEAD).positions == (2,)
    assert all(each.is_identical for each in comparison.sites)
    assert len(comparison.sites) == len(SITES)


def test_a_flat_tensor_takes_shape_and_positions_of_the_other_side(foreign):
    subject, oracle = agreed([read_aprt(foreign), make_capture()])

    assert subject.tensors[Q].array.shape == oracle.tensors[Q].array.shape
    assert subject.tensors[Q].dims == "t h d"
    assert subject.inputs == oracle.inputs


def test_a_control_is_cut_to_the_last_token_too(foreign):
    subject, oracle, control = agreed([read_aprt(foreign), make_capture(), make_capture()])

    assert compare_captures(control, oracle).at(LM_HEAD).shape == (1, 6)
    assert subject.tensors[LM_HEAD].positions == (2,)


def test_two_flat_trees_are_compared_value_by_value(foreign):
    comparison = compare_captures(*agreed([read_aprt(foreign)] * 2))

    assert len(comparison.sites) == len(SITES)
    assert all(each.is_identical for each in comparison.sites)


@pytest.mark.parametrize("count", [1, 4, 11, 24])
def test_a_flat_tensor_of_another_size_is_refused_with_both_descriptions(foreign, count):
    path = foreign / "layer-0" / "attn_out.bin"
    path.unlink()
    write_aprt_file(path, np.zeros(count, np.float32), layer=0)

    with pytest.raises(AlignmentError, match="numbers of values") as caught:
        agreed([read_aprt(foreign), make_capture()])
    assert f"shape {count} float32" in str(caught.value)
    assert "dims `t d`, shape 3x4 float32" in str(caught.value)


def test_a_flat_tensor_is_refused_when_the_layouts_are_not_known_to_agree(foreign):
    oracle = make_capture(sites=[Q])
    packed = make_tensor(ATTN_OUT, array=oracle.tensors[Q].array.reshape(3, 8))
    oracle = make_capture(tensors={Q: packed})

    with pytest.raises(AlignmentError, match="not known to agree"):
        agreed([read_aprt(foreign), oracle])


def test_ids_come_back_as_integers(tmp_path):
    site = Site(0, 0, "moe_router_indices")
    ids = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [3, 1, 2, 63]])
    oracle = make_capture(tensors={site: make_tensor(site, array=ids)})
    write_aprt(oracle, tmp_path / "tree")
    (tmp_path / "tree" / MANIFEST).unlink()

    comparison = compare_captures(*agreed([read_aprt(tmp_path / "tree"), oracle]))

    assert comparison.at(site).is_identical
    assert comparison.at(site).shape == (1, 4)


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_ids_that_are_no_whole_numbers_are_refused(tmp_path, value):
    site = Site(0, 0, "moe_router_indices")
    (tmp_path / "layer-0").mkdir()
    write_aprt_file(tmp_path / aprt_path(site), np.full(4, value, np.float32), layer=0)
    oracle = make_capture(tensors={site: make_tensor(site, array=np.zeros((3, 4), np.int64))})

    with pytest.raises(AlignmentError, match="no ids"):
        agreed([read_aprt(tmp_path), oracle])


@pytest.mark.parametrize(
    ("site", "array", "what"),
    [
        (Site(1, 0, "attn_out"), np.zeros((3, 4), np.float32), "decode steps"),
        (Site(0, 0, "attn_out"), np.zeros((3, 4), np.float64), "float64"),
        (Site(0, 0, "moe_router_indices"), np.full((3, 4), 1 << 25), "float32 cannot hold"),
    ],
)
def test_what_aprt_cannot_hold_is_refused_and_nothing_is_left(tmp_path, site, array, what):
    capture = make_capture(tensors={site: make_tensor(site, array=array)})

    with pytest.raises(CaptureError, match=what):
        write_aprt(capture, tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_an_older_run_is_found_out_by_the_manifest(tree):
    (tree / "layer-9").mkdir()
    write_aprt_file(tree / "layer-9" / "attn_out.bin", np.zeros(12, np.float32), layer=9)

    with pytest.raises(CaptureError, match=r"another run: layer-9/attn_out\.bin"):
        read_aprt(tree)


def test_a_file_that_a_later_run_wrote_over_is_found_out_by_its_digest(tree):
    path = tree / "layer-0" / "attn_out.bin"
    path.unlink()
    write_aprt_file(path, np.zeros(12, np.float32), layer=0)

    with pytest.raises(CaptureError, match="not those that were captured"):
        read_aprt(tree)


def test_missing_and_surplus_files_are_refused_by_the_plan(foreign):
    assert list(read_aprt(foreign, expected=SITES).tensors) == sorted(
        SITES, key=lambda site: site.causal_key
    )
    with pytest.raises(CaptureError, match=r"missing: layer-2/attn_out\.bin"):
        read_aprt(foreign, expected=[*SITES, Site(0, 2, "attn_out")])
    with pytest.raises(CaptureError, match=r"left from another run: lm_head\.bin"):
        read_aprt(foreign, expected=SITES[:-1])


def test_a_file_of_the_tree_that_is_gone_is_missed(tree):
    (tree / "lm_head.bin").unlink()

    with pytest.raises(CaptureError, match="missing"):
        read_aprt(tree)


def test_an_embedding_outside_of_the_layers_is_read_too(foreign):
    body = (foreign / "layer-0" / "embedding.bin").read_bytes()
    (foreign / "embedding.bin").write_bytes(body[:4] + b"\xff" * 4 + body[8:])

    with pytest.raises(CaptureError, match="is also"):
        read_aprt(foreign)
    (foreign / "layer-0" / "embedding.bin").unlink()
    assert EMBEDDING in read_aprt(foreign).tensors


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("layer-0/atn_out.bin", "no stage"),
        ("layer-0/deeper/attn_out.bin", "none of an APRT tree"),
        ("other/attn_out.bin", "none of an APRT tree"),
        ("layer-00/attn_norm.bin", "none of an APRT tree"),
        ("attn_norm.bin", "in a layer"),
        ("layer-0/lm_head.bin", "whole model"),
        ("layer-1/embedding.bin", "whole model"),
    ],
)
def test_a_file_in_the_wrong_place_is_refused(foreign, name, what):
    path = foreign / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((foreign / "layer-0" / "attn_out.bin").read_bytes())

    with pytest.raises(CaptureError, match=what):
        read_aprt(foreign)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda data: data[:-1], "states 12 values"),
        (lambda data: data + b"\0", "states 12 values"),
        (lambda data: data[:11], "no APRT file"),
        (lambda data: b"", "no APRT file"),
        (lambda data: b"TRPA" + data[4:], "no APRT file"),
        (lambda data: data[:4] + struct.pack("<I", 5) + data[8:], "layer 5"),
        (lambda data: data[:4] + b"\xff" * 4 + data[8:], "the whole model"),
        (lambda data: data[:8] + b"\xff" * 4 + data[12:], "states 4294967295"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused(foreign, change, what):
    path = foreign / "layer-0" / "attn_out.bin"
    path.write_bytes(change(path.read_bytes()))

    with pytest.raises(CaptureError, match=what) as caught:
        read_aprt(foreign)
    assert str(caught.value.path) == str(path)


def test_one_file_is_read_by_its_name_and_its_header(foreign):
    assert list(read_single(foreign / "layer-1" / "attn_out.bin").tensors) == [SITES[3]]
    assert list(read_single(foreign / "lm_head.bin").tensors) == [LM_HEAD]
    assert read_single(foreign / "lm_head.bin").tensors[LM_HEAD].dims == FLAT


def test_an_empty_folder_is_no_tree(tmp_path):
    with pytest.raises(CaptureError, match="no APRT file"):
        read_aprt(tmp_path)
