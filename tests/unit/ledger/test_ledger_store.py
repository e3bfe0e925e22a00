"""Ledgers on disk: what is refused, with place and remedy, and what stays intact."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import threading
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_samples import (
    CAUGHT,
    CONTRACT,
    FALSIFIER,
    evidence,
    facts,
    observe,
)

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.block import Ledger
from pytest_falsify.ledger.document import many_ledgers, parse, to_text
from pytest_falsify.ledger.merge import fold
from pytest_falsify.ledger.store import is_canonical, ledger_path, read, update, write

LEDGER = fold(None, CONTRACT, {FALSIFIER: facts()}, observe(evidence(faults=CAUGHT)))
TEXT = to_text(LEDGER)


@pytest.fixture
def path(tmp_path):
    return ledger_path(tmp_path / "evidence", CONTRACT)


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def numbered(ledger, count):
    blocks = {f"FALSIFY-{number:03d}": LEDGER.blocks[FALSIFIER] for number in range(count)}
    renamed = {
        id_: replace(each, evidence=tuple(replace(one, falsifier=id_) for one in each.evidence))
        for id_, each in blocks.items()
    }
    return replace(ledger, blocks=renamed)


def test_a_missing_ledger_is_none(path):
    assert read(path) is None


def test_writing_the_same_twice_changes_bytes_once(path):
    assert [write(path, LEDGER), write(path, LEDGER)] == [True, False]
    assert read(path) == LEDGER
    assert is_canonical(path)


def test_nothing_but_ledgers_lies_beside_the_ledgers(path):
    write(path, LEDGER)
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "what", "line"),
    [
        ('"status": "FUNCTIONAL"', '"status": "DISCHARGED"', "status", 4),
        ("DISCHARGED needs 1 more machine", "all is well", "because", 4),
        ('"outcome": "held"', '"outcome": "refuted"', "id of evidence", 4),
        ('"caught": 8', '"caught": 7', "id of evidence", 4),
        ('"rel_l2": 0.0031', '"rel_l2": NaN', "NaN", 1),
        ('"rel_l2": 0.0031', '"rel_l2": 0.1, "rel_l2": 0.0031', "stands twice", 1),
        ('"source": "live"', '"source": "dream"', "'source'", 4),
        ('"sites": 9', '"sites": ', "not JSON", 12),
        ('  "contract"', '<<<<<<< ours\n  "contract"', "conflict markers", 2),
        ('"schema": "urn:pytest-falsify:ledger:1"', '"schema": "v9"', "schema", 1),
        ('"target": "teacher"', '"target": 7', "'target'", 4),
        ('"today": {', '"tomorrow": {', "no 'today'", 4),
        ('"contract": "C-TEST",', "", "no 'contract'", 1),
        ('"rel_l2": 0.0031', '"rel_l2": 1e400', "cannot be written", 4),
        ('"sites": 9', f'"sites": {"9" * 5000}', "limit", 1),
        ('"target": "teacher"', '"target": "\\ud800"', "cannot be written", 1),
        ('"teacher": {', '"\\udfff": {', "cannot be written", 1),
    ],
)
def test_a_broken_or_edited_ledger_is_refused_where_it_is_broken(path, old, new, what, line):
    assert old in TEXT
    broken = put(path, TEXT.replace(old, new)).read_bytes()
    with pytest.raises(LedgerError, match=what) as caught:
        read(path)
    assert (str(path), line) == (str(caught.value.path), caught.value.line)
    assert caught.value.remedy
    if what != "because":
        with pytest.raises(LedgerError, match=what):
            write(path, Ledger(contract=CONTRACT))
        assert broken == path.read_bytes()


@pytest.mark.parametrize("was_enabled", [True, False])
def test_ledgers_that_were_read_together_count_as_old(was_enabled):
    try:
        (gc.enable if was_enabled else gc.disable)()
        with many_ledgers():
            assert not gc.isenabled()
            ledger = parse(TEXT)
        young = [*gc.get_objects(generation=0), *gc.get_objects(generation=1)]
        assert gc.isenabled() is was_enabled
    finally:
        gc.enable()
    assert not any(each is ledger for each in young)
    assert gc.get_freeze_count() == 0


def test_words_of_an_older_version_are_mended_by_an_update(path):
    put(path, TEXT.replace("DISCHARGED needs", "DISCHARGED would need"))
    assert update(path, lambda ledger: ledger).is_changed
    assert path.read_text() == TEXT


def test_the_same_evidence_twice_is_refused(path):
    value = json.loads(TEXT)
    records = value["falsifiers"][FALSIFIER]["evidence"]
    records.append(records[0])
    put(path, json.dumps(value))
    with pytest.raises(LedgerError, match="twice"):
        read(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", b"\xff\xfe", "[" * 100_000, TEXT[:-40]])
def test_what_is_no_ledger_at_all_is_refused(path, text):
    with pytest.raises(LedgerError):
        read(put(path, text))


def test_another_spelling_is_not_canonical(path):
    put(path, json.dumps(json.loads(TEXT)))
    assert read(path) == LEDGER
    assert not is_canonical(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(TEXT) - 1), st.characters(codec="ascii"))
def test_no_mutation_of_one_character_is_read_as_something_else(at, character):
    mutated = TEXT[:at] + character + TEXT[at + 1 :]
    try:
        ledger = parse(mutated)
    except LedgerError:
        return
    assert to_text(ledger) == TEXT or mutated != to_text(ledger) or _only_the_name(ledger)


def _only_the_name(ledger):
    """The contract's own name and unknown digests of today are not derived from anything."""
    same_status = to_text(ledger).count('"status": "FUNCTIONAL"') == 1
    return ledger.contract != CONTRACT or not same_status or ledger.blocks.keys() != {FALSIFIER}


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "a:b", "a\0b"])
def test_a_contract_cannot_name_a_file_elsewhere(tmp_path, name):
    with pytest.raises(LedgerError):
        ledger_path(tmp_path, name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_read_only_folder_is_an_error_and_the_ledger_stays(path):
    write(path, LEDGER)
    path.parent.chmod(0o500)
    try:
        with pytest.raises(LedgerError, match="could not be written"):
            write(path, Ledger(contract=CONTRACT))
    finally:
        path.parent.chmod(0o700)
    assert path.read_text() == TEXT


def test_a_full_disk_is_an_error_and_the_ledger_stays(path, monkeypatch):
    write(path, LEDGER)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LedgerError, match="No space left"):
        write(path, Ledger(contract=CONTRACT))
    assert path.read_text() == TEXT
    assert [path] == list(path.parent.iterdir())


def test_two_sessions_that_write_at_once_lose_nothing(path):
    def add(number):
        record = evidence(falsifier=f"FALSIFY-{number}")

        def change(ledger):
            known = ledger.blocks if ledger else {}
            entries = dict.fromkeys([*known, record.falsifier], facts())
            return fold(ledger, CONTRACT, entries, observe(record))

        update(path, change)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert {f"FALSIFY-{number}" for number in range(8)} == set(read(path).blocks)


def git(folder, *arguments):
    names = ("-c", "user.name=ada", "-c", "user.email=ada@example.org")
    command = ["git", *names, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_neighbouring_edits_merge_cleanly_in_git(path, tmp_path):
    base = numbered(LEDGER, 3)
    git(tmp_path, "init", "-q", "-b", "main")
    write(path, base)
    git(tmp_path, "add", "evidence")
    git(tmp_path, "commit", "-qm", "base")
    entries = dict.fromkeys(base.blocks, facts())
    for branch, falsifier in (("one", "FALSIFY-000"), ("two", "FALSIFY-001")):
        git(tmp_path, "checkout", "-q", "-b", branch, "main")
        record = evidence(falsifier=falsifier, faults=CAUGHT, on="b")
        write(path, fold(base, CONTRACT, entries, observe(record)))
        git(tmp_path, "commit", "-qam", branch)
    git(tmp_path, "merge", "-q", "-m", "both", "one")
    assert is_canonical(path)
    assert path.read_text().count('"status": "DISCHARGED"') == 2
