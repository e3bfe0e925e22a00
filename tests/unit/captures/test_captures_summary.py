"""Statistics of a tensor are those that NumPy finds in float64, strays counted apart."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from captures_support import make_capture, make_tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_falsify.captures.summary import SUMMARY, Summarising, Summary, write_summaries
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


def test_they_are_written_whole_and_replace_only_their_like(tmp_path):
    summarising = Summarising()
    capture = make_capture()
    for site, each in capture.tensors.items():
        summarising(site, each)

    write_summaries(capture, summarising.seen, tmp_path / "s")
    write_summaries(capture, summarising.seen, tmp_path / "s", replace=True)

    body = json.loads((tmp_path / "s" / SUMMARY).read_text())
    assert list(body["sites"]) == sorted(map(str, capture.tensors))
    assert body["identity"] == capture.identity.digest
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    with pytest.raises(CaptureError, match="no capture of ours"):
        write_summaries(capture, summarising.seen, tmp_path / "mine", replace=True)
