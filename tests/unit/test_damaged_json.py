"""JSON that others wrote, nested more deeply than Python can follow, is refused like any damage."""

from __future__ import annotations

import struct

import pytest

from pytest_falsify.canonical import parse_json
from pytest_falsify.captures.folder import read_captures
from pytest_falsify.captures.tensor_file import read_tensors
from pytest_falsify.checks.command import disagreements
from pytest_falsify.contracts.lint.baseline import read_baseline
from pytest_falsify.disaggregation.batches import is_batch, read_batch
from pytest_falsify.disaggregation.recordings import read_json
from pytest_falsify.engines.dimensions import Dimensions
from pytest_falsify.engines.process import run
from pytest_falsify.errors import FalsifyError
from pytest_falsify.routing.documents import read_object
from pytest_falsify.routing.routing_v1 import is_routing

DEEP = "[" * 100_000


def test_no_depth_is_more_than_an_error_of_value():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(DEEP)
    assert parse_json('{"a": 1}', object_pairs_hook=list) == [("a", 1)]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("manifest.json", read_captures),
        ("config.json", lambda path: Dimensions.of_folder(path.parent)),
        ("report.json", read_batch),
        ("trace.json", read_json),
        ("run.json", read_object),
        ("baseline.json", lambda path: read_baseline(path.read_text(), path)),
    ],
)
def test_a_file_is_refused(tmp_path, name, read):
    (tmp_path / name).write_text(DEEP)

    with pytest.raises(FalsifyError):
        read(tmp_path / name)


def test_the_header_of_tensors_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(DEEP)) + DEEP.encode())

    with pytest.raises(FalsifyError, match="nested too deeply"):
        read_tensors(path)


def test_what_only_asks_of_which_kind_a_file_is_says_no(tmp_path):
    for name in ("manifest.json", "report.json"):
        (tmp_path / name).write_text(DEEP)

    assert not is_routing(tmp_path)
    assert not is_batch(tmp_path / "report.json")


def test_what_a_command_prints_is_not_what_was_expected(tmp_path):
    printed = run("printf '%0100000d' 0 | tr 0 '['", folder=tmp_path, seconds=60)

    told = list(disagreements(printed, {"json": {"a": 1}}))

    assert told == ["what it printed is not JSON: it is nested too deeply"]
