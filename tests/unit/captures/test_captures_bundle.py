"""A bundle gives back every bit that was written, and is refused when one is not."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from captures_support import BFLOAT16, SITES, TOKENS, assert_same, make_capture, make_tensor
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pytest_falsify.canonical import canonical_text, digest
from pytest_falsify.captures.bundle import TENSORS, read_bundle, write_bundle
from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.manifest import MANIFEST, runs
from pytest_falsify.captures.tensor_file import DTYPES, read_tensors, write_tensors
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import Site

SITE = Site(0, 0, "attn_out")


@pytest.fixture
def capture():
    return make_capture(
        logits=[np.ones((3, 6), np.float32), np.ones((1, 6), BFLOAT16)],
        continuation=(4,),
        missing=(Site(0, 1, "q_post_rope"),),
    )


@pytest.fixture
def bundle(tmp_path, capture):
    write_bundle(capture, tmp_path / "bundle")
    return tmp_path / "bundle"


@st.composite
def arrays(draw):
    """Any bits in any dtype and shape: NaN payloads, -0 and empty axes among them."""
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    size = int(np.prod(shape)) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    raw = np.frombuffer(data, np.uint8)
    values = (raw & 1).view(dtype) if dtype.kind == "b" else raw.view(dtype)
    array = values.reshape(shape)
    return array.T if draw(st.booleans()) else array


def edited(folder: Path, change) -> None:
    """Change the manifest and give it the digest that fits."""
    path = folder / MANIFEST
    body = json.loads(path.read_text())
    del body["digest"]
    change(body)
    path.write_text(canonical_text({**body, "digest": digest(body)}))


@given(st.lists(arrays(), max_size=3))
def test_every_bit_of_every_dtype_and_shape_comes_back(found):
    tensors = {
        Site(0, layer, "attn_out"): CapturedTensor(
            array=array,
            dims=" ".join("tdhkvse"[: array.ndim]),
            positions=tuple(range(array.shape[0] if array.ndim else 0)),
        )
        for layer, array in enumerate(found)
    }
    capture = make_capture(tensors=tensors, logits=found)
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(capture, Path(folder) / "b")
        assert_same(capture, read_bundle(Path(folder) / "b"))


@given(st.lists(st.integers(0, 20)))
def test_positions_in_any_order_come_back(positions):
    found = [place for first, end in runs(positions) for place in range(first, end)]

    assert positions == found


def test_a_capture_comes_back_as_it_was(bundle, capture):
    assert_same(capture, read_bundle(bundle))


def test_tensors_are_views_of_the_file_and_cannot_be_written(bundle):
    array = read_bundle(bundle).tensors[SITE].array

    assert not array.flags.owndata
    assert not array.flags.writeable
    assert array.flags.aligned


def test_the_file_is_safetensors_as_its_makers_read_it(bundle, capture):
    from safetensors.numpy import load_file

    theirs = load_file(bundle / TENSORS)

    assert theirs[str(SITE)].tobytes() == capture.tensors[SITE].array.tobytes()


def test_what_their_library_writes_is_read(tmp_path):
    from safetensors.numpy import save_file

    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    save_file({"a": array}, tmp_path / "x.safetensors", metadata={"format": "np"})

    assert read_tensors(tmp_path / "x.safetensors")["a"].tolist() == array.tolist()


def test_the_manifest_fits_its_schema_and_says_how_the_capture_came_to_be(bundle, root):
    path = root / "pytest_falsify" / "captures" / "schema" / "manifest-v1.schema.json"
    manifest = json.loads((bundle / MANIFEST).read_text())

    Draft202012Validator(json.loads(path.read_text())).validate(manifest)
    assert manifest["identity"]["versions"] == {"lib": "1.0"}
    assert manifest["inputs"]["tokens"] == list(TOKENS)
    assert manifest["missing"] == ["0/1/q_post_rope"]
    assert manifest["tensors"][0]["positions"] == [[0, 3]]


def test_the_same_capture_gives_the_same_bytes(bundle, capture, tmp_path):
    write_bundle(capture, tmp_path / "again")

    for name in (MANIFEST, TENSORS):
        assert (bundle / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_nothing_is_left_when_writing_fails(tmp_path):
    odd = make_tensor(SITE, array=np.zeros((3, 4), np.complex128))

    with pytest.raises(CaptureError, match="complex128"):
        write_bundle(make_capture(tensors={SITE: odd}), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_gives_way_only_when_asked_and_anything_else_never(bundle, capture, tmp_path):
    other = replace(capture, continuation=(5,))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")

    with pytest.raises(CaptureError, match="already something here"):
        write_bundle(other, bundle)
    assert read_bundle(bundle).continuation == (4,)
    write_bundle(other, bundle, replace=True)
    assert read_bundle(bundle).continuation == (5,)
    with pytest.raises(CaptureError, match="no capture"):
        write_bundle(other, tmp_path / "mine", replace=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bundle", "mine"]


def test_any_changed_byte_is_noticed(bundle):
    """Every byte of the header and a spread of the values and of the manifest."""
    for name in (TENSORS, MANIFEST):
        path = bundle / name
        whole = path.read_bytes()
        for place in range(0, len(whole), 7):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(CaptureError):
                read_bundle(bundle)
        path.write_bytes(whole)
    read_bundle(bundle)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_refused(bundle, kept):
    path = bundle / TENSORS
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(CaptureError) as caught:
        read_bundle(bundle)
    assert str(caught.value.path) == str(path)
    assert caught.value.remedy


def test_surplus_bytes_are_refused(bundle):
    path = bundle / TENSORS
    path.write_bytes(path.read_bytes() + b"\0")

    with pytest.raises(CaptureError, match="describes"):
        read_bundle(bundle)


@pytest.mark.parametrize("length", [0, 3, 1 << 20, (1 << 63) + 1])
def test_a_header_that_lies_about_its_length_is_refused(bundle, length):
    path = bundle / TENSORS
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])

    with pytest.raises(CaptureError):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ("[]", "no JSON object"),
        ("{", "not JSON"),
        ('{"a": 3}', "not described"),
        ('{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}', "unknown dtype"),
        ('{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}', "unknown dtype"),
        ('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "no sizes"),
        ('{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', "no sizes"),
        ('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}', "no sizes"),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "needs 8"),
        ('{"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}', "begins at"),
        (
            (
                '{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},'
                ' "b": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}'
            ),
            "begins at",
        ),
        (
            (
                '{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},'
                ' "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}'
            ),
            "twice",
        ),
        ('{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}', "describes 2"),
    ],
)
def test_a_header_that_does_not_describe_the_file_is_refused(tmp_path, header, what):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\0" * 4)

    with pytest.raises(CaptureError, match=what):
        read_tensors(path)


@pytest.mark.parametrize(
    "file", ["../tensors.safetensors", "/etc/passwd", "a/../../x", "a\\b", "."]
)
def test_a_manifest_that_names_a_path_outside_is_refused(bundle, file):
    edited(bundle, lambda body: body["tensors"][0].update(file=file))

    with pytest.raises(CaptureError, match="outside"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda body: body.update(schema="urn:other:v2"), "urn:other:v2"),
        (lambda body: body.pop("tensors"), "tensors"),
        (lambda body: body.update(extra=1), "extra"),
        (lambda body: body["tensors"].pop(), "not in the manifest"),
        (lambda body: body["tensors"].append(body["tensors"][0]), "twice"),
        (lambda body: body["tensors"][0].update(site="0/7/attn_out"), "missing"),
        (lambda body: body["tensors"][0].update(site="0/7/atn_out"), "unknown stage"),
        (lambda body: body["tensors"][0].update(shape=[4, 3]), "describes"),
        (lambda body: body["tensors"][0].update(dtype="int32"), "describes"),
        (lambda body: body["tensors"][0].update(dtype="float4"), "unknown dtype"),
        (lambda body: body["tensors"][0].update(positions=[[0, 1 << 40]]), "positions"),
        (lambda body: body["tensors"][0].update(sha256="sha256:" + "0" * 64), "not those"),
        (lambda body: body["tensors"][0].update(file="other.safetensors"), "names"),
        (lambda body: body["inputs"].update(tokens=[1]), "inputs"),
        (lambda body: body["identity"].update(engine="other"), "identity"),
        (lambda body: body.update(format="aprt"), "aprt"),
        (lambda body: body.update(format="statistics"), "does not go with"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_describe_the_tensors_is_refused(bundle, change, what):
    edited(bundle, change)

    with pytest.raises(CaptureError, match=what):
        read_bundle(bundle)


def test_a_folder_without_its_parts_is_refused(bundle, tmp_path):
    for name in (MANIFEST, TENSORS):
        copy = tmp_path / f"without-{name}"
        shutil.copytree(bundle, copy)
        (copy / name).unlink()
        with pytest.raises(CaptureError, match="cannot be read"):
            read_bundle(copy)


def test_a_tensor_that_is_not_in_c_order_is_stored_in_c_order(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.asfortranarray(array), "b": array.astype(">f4"), "c": array[0, 0]})

    found = read_tensors(path)

    assert found["a"].tolist() == found["b"].tolist() == array.tolist()
    assert found["c"].shape == ()
    assert SITES
