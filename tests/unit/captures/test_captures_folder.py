"""One door to every kind of capture on disk; nothing is left out in silence."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from captures_support import BFLOAT16, SITES, make_capture, make_tensor
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.captures.aprt import write_aprt, write_aprt_file
from pytest_falsify.captures.bundle import write_bundle
from pytest_falsify.captures.folder import read_captures, site_named
from pytest_falsify.captures.manifest import MANIFEST
from pytest_falsify.captures.tensor_file import write_tensors
from pytest_falsify.captures.unstated import agreed
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.errors import AlignmentError, CaptureError
from pytest_falsify.stages.vocabulary import STAGES, Scope, Site

SITE = Site(0, 3, "attn_out")
ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


def write_npy(folder, capture):
    for site, each in capture.tensors.items():
        path = folder / f"{site}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, each.array)


def write_safetensors(folder, capture):
    folder.mkdir()
    write_tensors(
        folder / "x.safetensors", {str(site): each.array for site, each in capture.tensors.items()}
    )


WRITERS = {
    "bundle": lambda folder, capture: write_bundle(capture, folder),
    "aprt": lambda folder, capture: write_aprt(capture, folder),
    "safetensors": write_safetensors,
    "npy": write_npy,
}


@pytest.mark.parametrize("subject", WRITERS)
@pytest.mark.parametrize("oracle", WRITERS)
def test_every_pair_of_formats_can_be_compared(tmp_path, subject, oracle):
    capture = make_capture(sites=SITES[:-1])
    WRITERS[subject](tmp_path / "subject", capture)
    WRITERS[oracle](tmp_path / "oracle", capture)

    found = agreed([read_captures(tmp_path / "subject"), read_captures(tmp_path / "oracle")])

    comparison = compare_captures(*found)
    assert [each.site for each in comparison.sites] == list(capture.tensors)
    assert all(each.is_identical for each in comparison.sites)


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("0/3/attn_out", SITE),
        ("2/3/attn_out", Site(2, 3, "attn_out")),
        ("layer-3/attn_out", SITE),
        ("layer_3.attn_out", SITE),
        ("layers.3.attn_out", SITE),
        ("model.layers.3.attn_out", SITE),
        ("step-2/layer-3/attn_out", Site(2, 3, "attn_out")),
        ("3/ATTN_OUT", SITE),
        ("layers.3.layer_output", Site(0, 3, "post_ffn_residual")),
        ("lm_head", Site(0, None, "lm_head")),
        ("0/-/lm_head", Site(0, None, "lm_head")),
        ("4/-/lm_head", Site(4, None, "lm_head")),
        ("layer-0/embedding", Site(0, None, "embedding")),
        ("attn_out", None),
        ("layer-3/lm_head", None),
        ("layer-1/embedding", None),
        ("layers.3.self_attn.o_proj.weight", None),
        ("0/x/attn_out", None),
        ("", None),
    ],
)
def test_the_names_that_are_sites(name, site):
    assert site == site_named(name)


@given(
    st.integers(0, 99), st.integers(0, 99), st.sampled_from([each.name for each in STAGES.values()])
)
def test_every_site_is_read_as_it_is_spelt(step, layer, stage):
    site = Site(step, layer if STAGES[stage].scope is Scope.LAYER else None, stage)

    assert site == site_named(str(site))


def test_names_that_are_no_sites_are_listed_with_the_nearest_spelling(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"layers.3.atn_out": ARRAY, "attn_norm": ARRAY, "lm_head": ARRAY})

    with pytest.raises(CaptureError) as caught:
        read_captures(path)

    assert "2 names are no sites" in str(caught.value)
    assert "`layers.3.atn_out` (layers.3.attn_out?)" in str(caught.value)
    assert "`attn_norm` (in which layer?)" in str(caught.value)
    assert "--ignore-unknown" in str(caught.value)
    assert list(read_captures(path, ignore_unknown=True).tensors) == [Site(0, None, "lm_head")]


def test_a_folder_of_nothing_but_unknown_names_is_refused(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"foo": ARRAY})

    with pytest.raises(CaptureError, match="not one tensor"):
        read_captures(tmp_path, ignore_unknown=True)


def test_two_names_of_one_site_are_refused(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"layer-3/attn_out": ARRAY})
    write_tensors(tmp_path / "b.safetensors", {"layers.3.attn_out": ARRAY})

    with pytest.raises(CaptureError, match="there already"):
        read_captures(tmp_path)


def test_a_batch_of_one_is_dropped_and_other_axes_are_refused(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"layer-3/attn_out": ARRAY[np.newaxis]})
    write_tensors(tmp_path / "b.safetensors", {"layer-3/attn_out": np.stack([ARRAY, ARRAY])})

    assert read_captures(tmp_path / "a.safetensors").tensors[SITE].array.shape == (3, 4)
    with pytest.raises(CaptureError, match=r"\[2, 3, 4\]"):
        read_captures(tmp_path / "b.safetensors")


def test_positions_are_taken_from_the_side_that_states_them(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"layer-0/attn_out": ARRAY})
    stated = make_tensor(Site(0, 0, "attn_out"), array=ARRAY)
    object.__setattr__(stated, "positions", (7, 8, 9))
    oracle = make_capture(tensors={Site(0, 0, "attn_out"): stated})

    subject, _ = agreed([read_captures(tmp_path / "a.safetensors"), oracle])

    assert subject.tensors[Site(0, 0, "attn_out")].positions == (7, 8, 9)


def test_other_tokens_are_refused_and_not_cut(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"layer-0/attn_out": ARRAY[:2]})
    oracle = make_capture(sites=[Site(0, 0, "attn_out")])

    with pytest.raises(AlignmentError, match="the tokens differ"):
        compare_captures(*agreed([read_captures(tmp_path / "a.safetensors"), oracle]))


def test_bfloat16_safetensors_keep_their_dtype(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"layer-3/attn_out": ARRAY.astype(BFLOAT16)})

    assert read_captures(tmp_path).tensors[SITE].array.dtype == BFLOAT16


class Trap:
    """Whatever unpickles it fails the test."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("kind", ["object array", "bare pickle"])
def test_a_pickle_is_never_loaded(tmp_path, kind):
    path = tmp_path / "lm_head.npy"
    if kind == "object array":
        np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(Trap()))

    with pytest.raises(CaptureError, match="cannot be read"):
        read_captures(path)


def test_npy_that_is_truncated_or_of_no_number_is_refused(tmp_path):
    path = tmp_path / "lm_head.npy"
    np.save(path, ARRAY)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CaptureError, match="cannot be read"):
        read_captures(path)
    np.save(path, ARRAY.astype(BFLOAT16))
    with pytest.raises(CaptureError, match="safetensors"):
        read_captures(path)
    np.save(path, np.array(["a"]))
    with pytest.raises(CaptureError, match="number"):
        read_captures(path)


def test_a_folder_of_two_kinds_or_of_none_is_refused(tmp_path):
    with pytest.raises(CaptureError, match="no capture here"):
        read_captures(tmp_path)
    np.save(tmp_path / "lm_head.npy", ARRAY)
    write_aprt_file(tmp_path / "final_norm.bin", ARRAY, layer=0xFFFFFFFF)
    with pytest.raises(CaptureError, match=r"\.npy and \.bin"):
        read_captures(tmp_path)
    with pytest.raises(CaptureError, match="no such file"):
        read_captures(tmp_path / "absent")


def test_a_broken_manifest_is_refused_and_not_passed_over(tmp_path):
    write_aprt(make_capture(), tmp_path / "tree")
    (tmp_path / "tree" / MANIFEST).write_text("{")

    with pytest.raises(CaptureError, match="manifest"):
        read_captures(tmp_path / "tree")


def test_a_manifest_or_one_file_is_a_door_too(tmp_path):
    write_bundle(make_capture(), tmp_path / "b")
    write_aprt_file(tmp_path / "lm_head.bin", ARRAY, layer=0xFFFFFFFF)

    assert len(read_captures(tmp_path / "b" / MANIFEST).tensors) == len(SITES)
    assert list(read_captures(tmp_path / "lm_head.bin").tensors) == [Site(0, None, "lm_head")]
