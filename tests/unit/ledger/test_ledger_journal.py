"""Run records: nothing that was reported is lost, and nothing incomplete is taken as complete."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ledger_samples import CONTRACT, evidence, observe

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.journal import Journal, read_run, recover, recover_all

SEEN = observe(evidence(), evidence("refuted", "tiny"))


@pytest.fixture
def journal(tmp_path):
    with Journal.open(tmp_path / "runs", {"id": "lane-cpu", "lane": "cpu"}) as opened:
        yield opened


def test_a_record_says_what_was_observed(journal):
    for each in SEEN:
        journal.observe(each)
    journal.close({"passed": 1, "failed": 1})
    run = read_run(journal.path)
    assert run.is_complete
    assert run.header["lane"] == "cpu"
    assert run.trailer["counts"] == {"passed": 1, "failed": 1}
    assert tuple(SEEN) == run.observations()


def test_a_record_is_on_disk_when_append_returns(journal):
    journal.observe(SEEN[0])
    assert (SEEN[0],) == read_run(journal.path).observations()


def test_without_a_trailer_a_run_is_incomplete(journal):
    assert not read_run(journal.path).is_complete


def test_a_session_that_lost_a_report_says_so(journal):
    journal.close({}, complete=False)
    assert not read_run(journal.path).is_complete


def test_every_cut_loses_the_last_line_at_most(journal):
    for each in SEEN:
        journal.observe(each)
    journal.close({})
    data = journal.path.read_bytes()
    for length in range(0, len(data), 7):
        journal.path.write_bytes(data[:length])
        run = read_run(journal.path)
        whole = data[:length].count(b"\n")
        assert len(run.records) == max(0, min(whole - 1, 2))
        assert not run.is_complete


def test_a_damaged_line_in_the_middle_is_an_error_with_its_line(journal):
    journal.observe(SEEN[0])
    journal.close({})
    lines = journal.path.read_bytes().split(b"\n")
    lines[1] = lines[1][:50]
    journal.path.write_bytes(b"\n".join(lines))
    with pytest.raises(LedgerError) as caught:
        read_run(journal.path)
    assert caught.value.line == 2


def test_an_edited_observation_is_an_error_with_its_line(journal):
    journal.observe(SEEN[0])
    journal.close({})
    journal.path.write_text(journal.path.read_text().replace("0.0031", "0.0001"))
    with pytest.raises(LedgerError, match="content") as caught:
        read_run(journal.path).observations()
    assert caught.value.line == 2


def test_nothing_may_follow_the_trailer(journal):
    journal.close({})
    with journal.path.open("a") as file:
        file.write('{"kind":"observation"}\n')
    with pytest.raises(LedgerError, match="after its trailer"):
        read_run(journal.path)


def test_a_session_that_goes_on_is_not_recovered(journal):
    assert recover(journal.path) is None
    assert recover_all(journal.path.parent) == ()


def test_the_record_of_a_killed_session_keeps_what_it_saw(tmp_path):
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from ledger_samples import *
from pytest_falsify.ledger.journal import Journal
journal = Journal.open(Path({str(tmp_path)!r}), {{"id": "killed"}})
journal.observe(observe(evidence())[0])
journal._file.write(b'{{"kind": "obse')
print("ready", flush=True)
import time
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        assert recover(tmp_path / "killed.jsonl") is None
        os.kill(process.pid, signal.SIGKILL)
    (run,) = recover_all(tmp_path)
    assert (SEEN[0],) == run.observations()
    assert not run.is_complete
    assert run.trailer["recovered"] is True
    assert recover_all(tmp_path) == ()


def test_a_long_torn_line_leaves_nothing_behind(tmp_path):
    with Journal.open(tmp_path, {"id": "torn"}) as journal:
        journal.observe(SEEN[0])
        with journal.path.open("ab") as file:
            file.write(b'{"kind": "note", "text": "' + b"x" * 100_000)
    (run,) = recover_all(tmp_path)
    assert run.trailer["recovered"] is True
    assert not read_run(journal.path).is_torn


@pytest.mark.parametrize("kind", [None, "header", "trailer"])
def test_only_a_session_writes_header_and_trailer(journal, kind):
    with pytest.raises(LedgerError):
        journal.append({"kind": kind})


def test_a_value_that_is_not_json_is_an_error_and_leaves_the_record_whole(journal):
    with pytest.raises(LedgerError):
        journal.append({"kind": "note", "value": float("nan")})
    journal.close({})
    assert read_run(journal.path).is_complete


def test_two_sessions_cannot_have_one_record(journal):
    with pytest.raises(LedgerError):
        Journal.open(journal.path.parent, {"id": "lane-cpu"})
    assert SEEN[0].contract == CONTRACT
