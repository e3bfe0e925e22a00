"""Statistics of a tensor are those that NumPy finds in float64, strays counted apart."""

from __future__ import annotations

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from captures_support import assert_same, make_capture, make_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pytest_falsify.canonical import digest
from pytest_falsify.captures.bundle import read_statistics, write_bundle, write_statistics
from pytest_falsify.captures.folder import read_captures
from pytest_falsify.captures.manifest import MANIFEST
from pytest_falsify.captures.summary import Statistics, Summarising, Summary
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import Site

SITE = Site(0, 0, "attn_out")


@given(
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([np.float64, np.float32, np.float16, ml_dtypes.bfloat16]),
    strays=st.lists(st.sampled_from([np.nan, np.inf, -np.inf]), max_size=3),
)
@settings(max_examples=60)
def test_the_numbers_are_those_of_float64(seed, dtype, strays):
    array = np.random.default_rng(seed).normal(size=(5, 7)).astype(dtype)
    array.reshape(-1)[: len(strays)] = strays
    finite = array.astype(np.float64)
    finite = finite[np.isfinite(finite)]

    found = Summary.of(make_tensor(SITE, array=array))

    assert found.nonfinite == len(strays)
    assert (found.shape, found.dtype) == ((5, 7), array.dtype.name)
    assert found.mean * (35 if not strays else len(finite)) == pytest.approx(finite.sum(), abs=1e-4)
    assert found.rms == pytest.approx(np.sqrt((finite**2).mean()), rel=1e-5)
    assert (found.smallest, found.largest) == (finite.min(), finite.max())


def test_nothing_finite_gives_noughts_and_a_count():
    found = Summary.of(make_tensor(SITE, array=np.full((2, 3), np.nan, np.float32)))

    assert found.nonfinite == 6
    assert (found.mean, found.rms, found.smallest, found.largest) == (0, 0, 0, 0)


def test_squares_that_no_number_holds_do_not_make_the_rest_infinite():
    array = np.array([3e200, -4e200, 1e308, 1e308], np.float64)

    found = Summary.of(make_tensor(SITE, array=array.reshape(2, 2)))

    assert (found.nonfinite, found.smallest, found.largest) == (0, -4e200, 1e308)
    assert found.mean == pytest.approx(0.5e308)
    assert found.rms == pytest.approx(np.sqrt(0.5) * 1e308)


@pytest.fixture
def statistics():
    summarising = Summarising()
    run = replace(make_capture(), tensors={}, missing=(Site(0, 1, "attn_out"),), continuation=(7,))
    for site, each in make_capture().tensors.items():
        summarising(site, each)
    return Statistics(run=run, sites=summarising.seen)


def test_what_is_written_is_read_with_how_it_came_to_be(statistics, tmp_path, root):
    write_statistics(statistics, tmp_path / "s")

    assert read_statistics(tmp_path / "s") == statistics
    schema = root / "pytest_falsify" / "captures" / "schema" / "manifest-v1.schema.json"
    written = json.loads((tmp_path / "s" / MANIFEST).read_text())
    Draft202012Validator(json.loads(schema.read_text())).validate(written)


def test_captures_of_any_kind_give_way_to_each_other_and_nothing_else_does(statistics, tmp_path):
    place, mine = tmp_path / "s", tmp_path / "mine"
    mine.mkdir()
    (mine / "notes").write_text("mine")

    write_statistics(statistics, place)
    write_bundle(make_capture(), place, replace=True)
    assert_same(make_capture(), read_captures(place))
    write_statistics(statistics, place, replace=True)

    assert read_statistics(place) == statistics
    with pytest.raises(CaptureError, match="no capture of ours"):
        write_statistics(statistics, mine, replace=True)
    with pytest.raises(CaptureError, match="already something here"):
        write_statistics(statistics, place)


def sealed(body):
    content = {key: value for key, value in body.items() if key != "digest"}
    return json.dumps({**content, "digest": digest(content)})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda body: body["statistics"][0].update(rms=1.0), "not as it was written"),
        (lambda body: body["statistics"][0].update(rms=-1.0), "-1"),
        (lambda body: body["statistics"][0].update(mean=float("nan")), "not as it was written"),
        (lambda body: body["statistics"][0].update(site="attn_out"), "attn_out"),
        (lambda body: body["statistics"].append(body["statistics"][0]), "there twice"),
        (lambda body: body.update(format="safetensors"), "does not go with what is kept"),
        (lambda body: body.pop("statistics"), "does not go with what is kept"),
    ],
)
def test_numbers_that_were_not_written_so_are_refused(statistics, tmp_path, change, what):
    write_statistics(statistics, tmp_path / "s")
    path = tmp_path / "s" / MANIFEST
    body = json.loads(path.read_text())
    change(body)
    is_forged = what in {"there twice", "does not go with what is kept"}
    path.write_text(sealed(body) if is_forged else json.dumps(body))

    with pytest.raises(CaptureError, match=what):
        read_statistics(tmp_path / "s")


def test_what_is_no_json_is_refused(statistics, tmp_path):
    write_statistics(statistics, tmp_path / "s")
    path = tmp_path / "s" / MANIFEST
    whole = path.read_bytes()

    for data in (whole[:-100], b"[" * 100_000):
        path.write_bytes(data)
        with pytest.raises(CaptureError, match="cannot be read"):
            read_statistics(tmp_path / "s")


def test_a_folder_of_tensors_is_none_of_numbers(tmp_path):
    write_bundle(make_capture(), tmp_path / "c")

    with pytest.raises(CaptureError, match="stored as safetensors"):
        read_statistics(tmp_path / "c")
