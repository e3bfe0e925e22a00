"""Commands: what a process leaves, what is expected of it, and what is never run."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from pytest_falsify.checks.command import disagreements, observed, refusal
from pytest_falsify.engines.process import KEPT_BYTES, Stream, run
from pytest_falsify.engines.sources import sources_digest
from pytest_falsify.errors import ContractError


def _run(command, folder, seconds=20):
    return run(command, folder=folder, seconds=seconds)


def _until_nobody_writes(pipe):
    """Everything that was written into a pipe, once each of its writers is gone."""
    found = b""
    for _ in range(3000):
        try:
            data = os.read(pipe, 100)
        except BlockingIOError:
            time.sleep(0.01)
            continue
        found += data
        if not data:
            return found
    msg = f"something still runs and holds the pipe; it wrote {found!r}"
    raise AssertionError(msg)


def test_a_large_output_is_bounded_and_its_digest_covers_all_of_it():
    stream, whole = Stream(), hashlib.sha256()
    for number in range(80):
        data = bytes([65 + number % 26]) * 100_000
        stream.take(data)
        whole.update(data)

    assert stream.size == 8_000_000
    assert stream.digest == f"sha256:{whole.hexdigest()}"
    assert len(stream.text) < 3 * KEPT_BYTES + 100
    assert stream.text.startswith("AAAA")
    assert stream.text.endswith("BBBB")
    assert "bytes left out" in stream.text


def test_what_is_kept_as_evidence_is_small(tmp_path):
    kept = observed(_run("for i in $(seq 20000); do echo line $i; done", tmp_path))

    assert len(kept["output"]) == 2000
    assert kept["output"].endswith("line 20000\n")
    assert kept["output_bytes"] > 100_000


def test_a_failure_before_the_last_line_or_within_a_pipe_counts(tmp_path):
    assert _run("false\ntrue", tmp_path).exit == 1
    assert _run("false | cat", tmp_path).exit == 1


def test_what_takes_too_long_is_stopped_with_all_that_it_started(tmp_path):
    os.mkfifo(tmp_path / "alive")
    alive = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    sleeper = "(echo started; exec sleep 600) > alive"

    done = _run(f"{sleeper} & {sleeper}; wait", tmp_path, seconds=2)

    assert done.exit is None
    assert _until_nobody_writes(alive) == b"started\n" * 2


def test_a_signal_is_an_exit_status_as_a_shell_gives_it(tmp_path):
    assert _run("kill -TERM $$", tmp_path).exit == 128 + 15


def test_nothing_stands_on_the_input(tmp_path):
    assert _run("cat", tmp_path).exit == 0


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ContractError, match="there is no folder"):
        _run("true", tmp_path / "absent")


def test_a_pattern_that_is_none_is_a_mistake_of_the_contract(tmp_path):
    with pytest.raises(ContractError, match="not a regular expression"):
        list(disagreements(_run("echo a", tmp_path), {"matches": "("}))


@pytest.mark.parametrize("command", ["mine --run <model>", "run it ...; mine", "mine TODO", ""])
def test_what_waits_to_be_filled_in_is_refused(command):
    assert refusal(command)


@pytest.mark.parametrize("command", ["mine --run model", "./mine", "mine 'a <b> c'", "a |\n  b"])
def test_a_program_that_nobody_knows_may_run(command):
    assert refusal(command) == ""


def test_the_digest_of_sources_sees_names_and_contents(tmp_path):
    (tmp_path / "a.rs").write_text("1")
    first = sources_digest(tmp_path, ["*.rs"])

    (tmp_path / "a.rs").rename(tmp_path / "b.rs")
    second = sources_digest(tmp_path, ["*.rs"])
    (tmp_path / "b.rs").write_text("2")

    assert len({first, second, sources_digest(tmp_path, ["*.rs"])}) == 3
    assert sources_digest(tmp_path, []) is None
