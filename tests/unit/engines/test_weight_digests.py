"""Weights are read once; a changed file is read again, whatever was made to look the same."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from pytest_falsify.engines import weight_digests
from pytest_falsify.engines.weight_digests import LARGE, cache_folder, file_digest

OLD = 10**9  # a time stamp long ago, in seconds


def sha256(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _forget(monkeypatch)


def _forget(monkeypatch):
    """As a new process would begin."""
    monkeypatch.setattr(weight_digests, "_known", {})


@pytest.fixture
def reads(monkeypatch):
    """The files that were really read."""
    seen = []
    read = weight_digests._read
    monkeypatch.setattr(weight_digests, "_read", lambda file: seen.append(file) or read(file))
    return seen


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A large file that was written long ago."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"w" * LARGE)
    monkeypatch.setattr(weight_digests.time, "time_ns", lambda: 4 * 10**18)
    return file


def test_a_file_is_read_once_in_a_process(weights, reads):
    assert file_digest(weights) == sha256(weights.read_bytes())
    assert file_digest(weights) == sha256(weights.read_bytes())
    assert len(reads) == 1


def test_a_file_is_not_read_again_by_the_next_process(weights, reads, monkeypatch):
    first = file_digest(weights)
    _forget(monkeypatch)

    assert file_digest(weights) == first
    assert len(reads) == 1


def test_another_process_need_not_be_able_to_read_it(weights):
    first = file_digest(weights)
    program = (
        "import sys, pathlib\n"
        "from pytest_falsify.engines import weight_digests\n"
        "weight_digests._read = None\n"
        "print(weight_digests.file_digest(pathlib.Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(weights)]

    assert subprocess.check_output(command, text=True).strip() == first


def test_a_changed_file_is_read_again(weights, reads, monkeypatch):
    first = file_digest(weights)
    weights.write_bytes(b"v" * LARGE)
    _forget(monkeypatch)

    assert file_digest(weights) == sha256(b"v" * LARGE) != first
    assert len(reads) == 2


def test_size_and_time_of_modification_alone_are_not_believed(weights, monkeypatch):
    os.utime(weights, (OLD, OLD))
    file_digest(weights)
    with weights.open("r+b") as file:
        file.write(b"v")
    os.utime(weights, (OLD, OLD))
    _forget(monkeypatch)

    assert file_digest(weights) == sha256(weights.read_bytes())


def test_a_replaced_file_of_the_same_size_and_time_is_read_again(weights, tmp_path, monkeypatch):
    os.utime(weights, (OLD, OLD))
    file_digest(weights)
    other = tmp_path / "other"
    other.write_bytes(b"v" * LARGE)
    os.utime(other, (OLD, OLD))
    other.replace(weights)
    _forget(monkeypatch)

    assert file_digest(weights) == sha256(b"v" * LARGE)


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, reads):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"w" * LARGE)

    assert file_digest(file) == file_digest(file)
    assert len(reads) == 2
    assert not cache_folder().exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(weights, monkeypatch):
    read = weight_digests._read

    def changed_meanwhile(file):
        found = read(file)
        file.write_bytes(b"v" * (LARGE + 1))
        return found

    monkeypatch.setattr(weight_digests, "_read", changed_meanwhile)
    file_digest(weights)
    monkeypatch.setattr(weight_digests, "_read", read)

    assert file_digest(weights) == sha256(b"v" * (LARGE + 1))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"stamp": []}', '{"sha256": "x", "stamp": STAMP}']
)
def test_a_damaged_cache_is_read_over(weights, reads, monkeypatch, text):
    first = file_digest(weights)
    (entry,) = cache_folder().iterdir()
    stamp = list(weight_digests._stamp(weights.stat()))
    entry.write_text(text.replace("STAMP", str(stamp)))
    _forget(monkeypatch)

    assert file_digest(weights) == first
    assert len(reads) == 2


def test_a_cache_that_cannot_be_written_costs_time_only(weights, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    assert file_digest(weights) == sha256(weights.read_bytes())


def test_small_files_leave_nothing_on_disk(tmp_path):
    file = tmp_path / "config.json"
    file.write_text("{}")
    os.utime(file, (OLD, OLD))

    assert file_digest(file) == sha256(b"{}")
    assert not cache_folder().exists()


def _hub_file(tmp_path, name, repository="models--Qwen--Qwen2.5"):
    blob = tmp_path / repository / "blobs" / name
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"fifteen gigabytes")
    link = tmp_path / repository / "snapshots" / "abc" / "model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    return link


def test_a_blob_that_the_hub_names_by_its_digest_is_not_read(tmp_path, reads):
    named = "ab" * 32

    assert file_digest(_hub_file(tmp_path, named)) == f"sha256:{named}"
    assert reads == []


@pytest.mark.parametrize(("name", "repository"), [("ab" * 20, "models--a--b"), ("ab" * 32, "mine")])
def test_other_names_are_not_believed(tmp_path, name, repository):
    """Small files have git's name in the hub's cache, and other folders are not the hub's."""
    assert file_digest(_hub_file(tmp_path, name, repository)) == sha256(b"fifteen gigabytes")
