"""--falsify-ledger=update|check|off, and the gate."""

from __future__ import annotations

import pytest


def test_a_second_run_changes_no_byte_with_or_without_workers(project, workers):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2")
    project.captures(FALSIFY_A_2=1e-4)
    first = project.run("contracts").ledgers

    assert project.run("contracts", *workers).ledgers == first
    for ledger in (project.path / "evidence").iterdir():
        ledger.unlink()
    assert project.run("contracts", *workers).ledgers == first


def test_another_machine_that_only_confirms_changes_no_byte(project, monkeypatch):
    project.contract("FALSIFY-A-1")
    project.captures()
    first = project.run("contracts").ledgers

    monkeypatch.setenv("FALSIFY_MACHINE", "another")

    assert project.run("contracts").ledgers == first


def test_off_reads_and_writes_nothing(project):
    project.contract("FALSIFY-A-1")
    project.captures()

    ran = project.run("contracts", "--falsify-ledger=off")

    assert ran.result.ret == 0
    assert ran.ledgers == {}
    assert not (project.path / ".falsify").exists()


def test_check_is_the_default_in_ci_and_passes_on_what_is_on_file(project, monkeypatch):
    project.contract("FALSIFY-A-1")
    project.captures()
    first = project.run("contracts").ledgers
    monkeypatch.setenv("CI", "true")

    ran = project.run("contracts")

    assert ran.result.ret == 0
    assert ran.ledgers == first
    assert "ledger: evidence/C-ONE.json, agrees" in ran.text


@pytest.mark.parametrize("change", ["no ledger", "refuted", "other version", "other entry", "edit"])
def test_check_fails_on_what_the_evidence_does_not_say_and_names_the_command(project, change):
    project.contract("FALSIFY-A-1")
    project.captures()
    project.run("contracts")
    ledger = project.path / "evidence/C-ONE.json"
    if change == "no ledger":
        ledger.unlink()
    elif change == "refuted":
        project.captures(FALSIFY_A_1=0.5)
    elif change == "other version":
        project.captures(version="2")
    elif change == "other entry":
        project.contract("FALSIFY-A-1", check="{kind: identical, subject: subject, oracle: oracle}")
        project.captures(FALSIFY_A_1=0.0)
    else:
        ledger.write_text(ledger.read_text().replace('"PARTIAL"', '"DISCHARGED"'))

    ran = project.run("contracts", "--falsify-ledger=check")

    assert ran.result.ret == 1
    assert "denied: " in ran.text
    assert "--falsify-ledger=update" in ran.text


def test_what_an_older_version_put_into_other_words_is_denied_and_mended_by_an_update(project):
    project.contract("FALSIFY-A-1")
    project.captures()
    right = project.run("contracts").ledgers
    ledger = project.path / "evidence/C-ONE.json"
    ledger.write_text(right["C-ONE"].replace("held on here", "did hold on here"))

    checked = project.run("contracts", "--falsify-ledger=check")
    updated = project.run("contracts", "--falsify-ledger=update")

    assert checked.result.ret == 1
    assert "the because of FALSIFY-A-1 is 'did hold on here" in checked.text
    assert updated.result.ret == 0
    assert updated.ledgers == right


def test_check_announces_new_support_and_passes(project):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2")
    project.captures(FALSIFY_A_2="blocked")
    first = project.run("contracts").ledgers
    project.captures()

    ran = project.run("contracts", "--falsify-ledger=check")

    assert ran.result.ret == 0
    assert ran.ledgers == first
    ran.result.stdout.fnmatch_lines(["note: *FALSIFY-A-2 could be PARTIAL*record it: pytest*"])


def test_a_ledger_that_was_edited_by_hand_is_refused_and_left_alone(project):
    project.contract("FALSIFY-A-1")
    project.captures()
    project.run("contracts")
    ledger = project.path / "evidence/C-ONE.json"
    ledger.write_text(ledger.read_text().replace('"PARTIAL"', '"DISCHARGED"'))
    edited = ledger.read_text()

    ran = project.run("contracts")

    assert ran.result.ret == 1
    assert ledger.read_text() == edited
    ran.result.stdout.fnmatch_lines(["denied: evidence/C-ONE.json:4: *status of FALSIFY-A-1*"])


@pytest.mark.parametrize(
    ("gate", "status"),
    [("--falsify-gate", 0), ("--falsify-gate=PARTIAL", 0), ("--falsify-gate=FUNCTIONAL", 1)],
)
def test_the_gate_demands_what_the_contract_requires_or_what_is_said(project, gate, status):
    project.contract("FALSIFY-A-1")
    project.captures()

    ran = project.run("contracts", gate)

    assert ran.result.ret == status
    assert ("denied: gate: FALSIFY-A-1 is PARTIAL" in ran.text) == bool(status)


def test_the_gate_denies_an_all_skipped_lane(project):
    project.contract("FALSIFY-A-1")
    project.captures(FALSIFY_A_1="blocked")

    assert project.run("contracts", "--falsify-gate").result.ret == 1


def test_two_contracts_of_one_id_are_denied(project):
    project.contract("FALSIFY-A-1")
    project.contract("FALSIFY-A-1", name="two")
    project.captures()

    ran = project.run("contracts")

    assert ran.result.ret == 1
    assert "both called C-ONE" in ran.text
