"""Every hand edit is found; ledgers at a commit are read as they were."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import pytest
from ledger_samples import CAUGHT, CONTRACT, FALSIFIER, evidence, facts, observe

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.git import history, ledgers_at
from pytest_falsify.ledger.machine import machine_id, platform_words
from pytest_falsify.ledger.merge import fold
from pytest_falsify.ledger.store import ledger_path, write
from pytest_falsify.ledger.verify import verify, verify_folder

LEDGER = fold(None, CONTRACT, {FALSIFIER: facts()}, observe(evidence(faults=CAUGHT)))
DISCHARGED = fold(LEDGER, CONTRACT, {FALSIFIER: facts()}, observe(evidence(faults=CAUGHT, on="b")))


@pytest.fixture
def folder(tmp_path):
    write(ledger_path(tmp_path / "evidence", CONTRACT), LEDGER)
    return tmp_path / "evidence"


def test_a_ledger_as_written_is_sound(folder):
    assert verify_folder(folder) == ({CONTRACT: LEDGER}, ())


def test_a_ledger_that_is_not_there_is_wrong(folder):
    assert verify(folder / "C-OTHER.json")[1][0].what == "there is no ledger"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FUNCTIONAL", "DISCHARGED"),
        ("0.0031", "0.0032"),
        ("    ", "  "),
        ("linux", "darwin"),
        ("C-TEST", "C-TOAST"),
        ("machine)", "machine )"),
    ],
)
def test_a_hand_edit_is_found(folder, old, new):
    path = folder / "C-TEST.json"
    path.write_text(path.read_text().replace(old, new, 1))
    _, problems = verify(path)
    assert len(problems) == 1
    assert (path, True) == (path, str(problems[0]).startswith(f"{path}:"))


def test_one_broken_ledger_does_not_hide_the_others(folder):
    other = replace(LEDGER, contract="C-OTHER")
    write(ledger_path(folder, "C-OTHER"), other)
    (folder / "C-TEST.json").write_text("{")
    ledgers, problems = verify_folder(folder)
    assert list(ledgers) == ["C-OTHER"]
    assert len(problems) == 1


def git(folder, *arguments):
    names = ("-c", "user.name=ada", "-c", "user.email=ada@example.org")
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(folder):
    git(folder.parent, "init", "-q", "-b", "main")
    git(folder.parent, "add", "evidence")
    git(folder.parent, "commit", "-qm", "tried on a laptop")
    write(folder / "C-TEST.json", DISCHARGED)
    git(folder.parent, "commit", "-qam", "a second machine agrees")
    return folder


def test_ledgers_are_read_as_they_were_at_a_commit(repository):
    assert ledgers_at("HEAD", repository) == {CONTRACT: DISCHARGED}
    assert ledgers_at("HEAD~1", repository) == {CONTRACT: LEDGER}


def test_a_folder_that_the_commit_does_not_have_is_empty(repository):
    assert ledgers_at("HEAD", repository.parent / "elsewhere") == {}


@pytest.mark.parametrize("ref", ["no-such-branch", "--all", ""])
def test_a_commit_that_is_not_there_is_an_error_and_not_an_empty_base(repository, ref):
    with pytest.raises(LedgerError):
        ledgers_at(ref, repository)


def test_words_of_an_older_version_do_not_make_a_base_unreadable(repository):
    path = repository / "C-TEST.json"
    value = json.loads(path.read_text())
    value["falsifiers"][FALSIFIER]["because"] = "it holds"
    path.write_text(json.dumps(value))
    git(repository, "commit", "-qam", "older words")
    assert ledgers_at("HEAD", repository) == {CONTRACT: DISCHARGED}


def test_history_tells_each_change_of_status_the_newest_first(repository):
    moments = history(repository / "C-TEST.json", FALSIFIER)
    assert [(each.status.value, each.subject) for each in moments] == [
        ("DISCHARGED", "a second machine agrees"),
        ("FUNCTIONAL", "tried on a laptop"),
    ]


def test_a_named_machine_is_the_same_everywhere(tmp_path):
    named = {"FALSIFY_MACHINE": "pool"}
    assert machine_id(["GPU-1"], environ=named) == machine_id(environ=named, files=[tmp_path])


def test_machines_differ_by_system_and_accelerators(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("aaaa\n")
    other.write_text("bbbb\n")
    ids = [
        machine_id(gpus, environ={}, files=[file]) for gpus in ([], ["G"]) for file in (one, other)
    ]
    assert len(set(ids)) == 4
    assert machine_id(["A", "B"], environ={}, files=[one]) == machine_id(
        ["B", "A"], environ={}, files=[one]
    )
    assert not any("aaaa" in each for each in ids)


def test_two_clients_of_one_server_are_one_machine(tmp_path):
    clients = [tmp_path / "one", tmp_path / "other"]
    for each in clients:
        each.write_text(f"{each.name}\n")

    def seen_from(client, *servers):
        return machine_id(environ={}, files=[client], servers=servers)

    one, other = (seen_from(each, "sha256:a", "sha256:b") for each in clients)
    assert one == other
    assert one not in {seen_from(clients[0]), seen_from(clients[0], "sha256:a")}


def test_a_platform_is_told_in_words():
    words = platform_words(["NVIDIA H200", "NVIDIA H200"], {"torch": "2.13.0"})
    assert words.endswith(", NVIDIA H200, torch 2.13.0")
