"""What `inspect` shows of a capture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from report_support import SITES, assert_golden, make_capture

from pytest_falsify.captures.summary import Statistics, Summary
from pytest_falsify.captures.unstated import unstated_capture
from pytest_falsify.report.provenance import provenance_json, provenance_lines
from pytest_falsify.stages.vocabulary import Site


def test_the_provenance_is_its_golden_file():
    capture = replace(make_capture(), missing=(Site(0, 2, "ffn_out"),), continuation=(7,))

    assert_golden("provenance.txt", "\n".join(provenance_lines(capture, Path("oracle"))) + "\n")


def test_statistics_are_their_golden_file():
    capture = replace(make_capture(), missing=(Site(0, 2, "ffn_out"),))
    sites = {site: Summary.of(each) for site, each in capture.tensors.items()}
    broken = capture.tensors[Site(0, 1, "attn_out")]
    broken = replace(broken, array=np.where(broken.array > 1, np.nan, broken.array))
    sites[Site(0, 1, "attn_out")] = Summary.of(broken)
    found = Statistics(run=replace(capture, tensors={}), sites=sites)

    assert_golden("statistics.txt", "\n".join(provenance_lines(found, Path("look"))) + "\n")
    told = json.loads(json.dumps(provenance_json(found), allow_nan=False))
    assert [str(site) for site in SITES] == [each["site"] for each in told["sites"]]
    assert (told["layers"], told["missing"]) == ([0, 1, 2], ["0/2/ffn_out"])


def test_what_a_format_does_not_state_is_not_made_up():
    capture = unstated_capture(make_capture().tensors, source="npy")

    found = dict(
        line.strip().split(":", 1) for line in provenance_lines(capture, Path("x")) if ":" in line
    )
    for name in ("settings", "device", "weights", "identity", "inputs"):
        assert found[name].strip() == "unstated", name
    assert found["digests"].strip() == "none to check"


def test_the_json_names_every_site():
    told = json.loads(json.dumps(provenance_json(make_capture()), allow_nan=False))

    assert [str(site) for site in SITES] == [each["site"] for each in told["sites"]]
    assert told["layers"] == [0, 1, 2]
