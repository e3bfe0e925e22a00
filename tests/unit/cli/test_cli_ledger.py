"""What the commands about evidence print, and the status they end with."""

from __future__ import annotations

import datetime as dt
import json
import re

import pytest

A1, A2, A3 = "FALSIFY-A-1", "FALSIFY-A-2", "FALSIFY-A-3"
REQUIRE = "--require=PARTIAL"


def _all_held(repository, **changes):
    repository.on_file(*(repository.evidence(each, **changes) for each in (A1, A2, A3)))


def test_status_shows_every_falsifier_without_running_anything(repository):
    repository.on_file(repository.evidence(A1), repository.evidence(A2, "refuted"))

    out = repository.cli("status")

    assert "FALSIFY-A-1  FUNCTIONAL" in out
    assert "FALSIFY-A-2  FALSIFIED" in out
    assert "FALSIFY-A-3  UNTRIED" in out
    assert json.loads(repository.cli("status", "--format", "json"))["C-A"][A1]["status"] == (
        "FUNCTIONAL"
    )


def test_status_tells_falsifiers_that_stand_alike_in_one_line(repository):
    out = repository.cli("status")
    assert "C-A  ledger: evidence/C-A.json, not there yet" in out
    assert "FALSIFY-A-1..3  UNTRIED     no evidence" in out
    assert "FALSIFY-A-2  UNTRIED     no evidence" in repository.cli("status", "-v")


def test_status_of_an_entry_that_changed_is_stale_before_any_run(repository):
    repository.on_file(repository.evidence(A1))
    text = (repository.path / "contracts/a.yaml").read_text()
    changed = text.replace("kind: identical", "kind: parity, expect: {rel_l2: {max: 0.1}}", 1)
    (repository.path / "contracts/a.yaml").write_text(changed)

    assert "FALSIFY-A-1  STALE" in repository.cli("status")


def test_why_explains_from_the_evidence_and_says_what_would_raise_it(repository):
    repository.on_file(repository.evidence(A1))

    out = repository.cli("why", A1)

    assert "FALSIFY-A-1 is FUNCTIONAL" in out
    assert "8 of 8 planted faults caught" in out
    assert "tiny: nothing on file" in out
    assert "add 1 more machine or bit-equality" in out


@pytest.mark.parametrize(
    "command", [("why", "FALSIFY-X"), ("log", "FALSIFY-X"),
                ("retract", "FALSIFY-X", "sha256:0", "--who", "a", "--why", "b")],
)  # fmt: skip
def test_an_unknown_falsifier_is_told_with_status_2(repository, command):
    _all_held(repository)

    out = repository.cli(*command, status=2)

    assert "FALSIFY-X" in out
    assert "expected: an id that `pytest-falsify status` shows" in out


@pytest.mark.parametrize("command", ["status", "gate"])
def test_no_contracts_are_told_with_status_2(repository, command):
    for each in (repository.path / "contracts").iterdir():
        each.unlink()
    (repository.path / "contracts").rmdir()

    assert "there is no contracts" in repository.cli(command, status=2)


def test_a_broken_contract_is_named_with_its_line(repository):
    repository.contract(more="- id: FALSIFY-A-1\n  rule: twice\n")

    assert "contracts/a.yaml:20: " in repository.cli("status", status=2)


@pytest.mark.parametrize("style", ["text", "markdown", "json", "github"])
def test_diff_tells_regressions_first_in_each_format(repository, style):
    repository.on_file(repository.evidence(A1))
    repository.commit()
    repository.on_file(repository.evidence(A1, "refuted"), repository.evidence(A2))

    out = repository.cli("diff", "HEAD", "--format", style)

    places = [out.find(A1), out.find(A2)] if style != "github" else [out.find(A1)]
    assert -1 not in places
    assert places == sorted(places)
    assert "FALSIFIED" in out


def test_diff_of_two_commits_does_not_look_at_the_working_tree(repository):
    _all_held(repository)
    repository.commit()
    repository.on_file(repository.evidence(A1, "refuted"))

    assert "0 regressed" in repository.cli("diff", "HEAD", "HEAD")
    assert "1 regressed" in repository.cli("diff", "HEAD")


def test_diff_for_github_annotates_the_contract_and_appends_to_the_step_summary(
    repository, tmp_path
):
    _all_held(repository)
    repository.commit()
    repository.on_file(repository.evidence(A2, "refuted"))
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")

    out = repository.cli("diff", "HEAD", "--format", "github", GITHUB_STEP_SUMMARY=str(summary))

    assert "::error file=contracts/a.yaml,line=14,title=FALSIFY-A-2 FUNCTIONAL -> FALSIFIED" in out
    assert summary.read_text().startswith("before\n**Ledger**: 1 regressed")
    repository.cli("diff", "HEAD", "--format", "markdown", GITHUB_STEP_SUMMARY=str(summary))
    assert summary.read_text().count("**Ledger**") == 1


def test_diff_with_an_unknown_commit_says_how_to_fetch_it(repository):
    out = repository.cli("diff", "no-such-ref", status=2)

    assert "to mend: fetch the commit" in out


@pytest.mark.parametrize("command", [("diff", "HEAD"), ("log", "FALSIFY-A-1")])
def test_a_repository_without_commits_is_told_to_make_one(repository, command):
    _all_held(repository)

    out = repository.cli(*command, status=2)

    assert "or make the first one where the repository has none" in out


@pytest.mark.parametrize("style", ["text", "markdown", "json", "github"])
def test_diff_says_of_a_ledger_that_cannot_be_read_only_that(repository, style):
    _all_held(repository)
    repository.commit()
    repository.ledger.write_text("{")

    out = repository.cli("diff", "HEAD", "--format", style, status=2)

    assert "evidence/C-A.json:1: the ledger is not JSON" in out
    assert A1 not in out


def test_status_and_why_tell_every_broken_ledger_and_the_others_all_the_same(repository):
    _two_more_contracts(repository)
    repository.on_file(repository.evidence(A1))
    for name in ("C-B", "C-C"):
        repository.ledger.with_name(f"{name}.json").write_text("{")

    for command in (["status"], ["status", "--format", "json"], ["why", A1]):
        out = repository.cli(*command, status=2)
        assert "FUNCTIONAL" in out
        assert "evidence/C-B.json:1: the ledger is not JSON" in out
        assert "evidence/C-C.json:1: the ledger is not JSON" in out


def test_merge_goes_on_after_a_broken_ledger_and_does_not_end_well(repository):
    _two_more_contracts(repository)
    record = repository.run_record("one", repository.evidence(A1))
    repository.ledger.parent.mkdir()
    repository.ledger.with_name("C-0.json").write_text("{")
    repository.contract("FALSIFY-0-1", id="C-0", name="0")

    out = repository.cli("merge", record, status=2)

    assert "evidence/C-0.json:1: the ledger is not JSON" in out
    assert "FUNCTIONAL" in repository.ledger.read_text()


def _two_more_contracts(repository):
    repository.contract("FALSIFY-B-1", id="C-B", name="b")
    repository.contract("FALSIFY-C-1", id="C-C", name="c")


@pytest.mark.parametrize("command", [["status"], ["why", A1], ["gate"], ["verify"], ["log", A1]])
def test_commands_find_the_project_from_a_folder_below(repository, monkeypatch, command):
    _all_held(repository)
    repository.commit()
    above = repository.cli(*command)
    below = repository.path / "src/deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)

    assert repository.cli(*command).replace(f"{repository.path}/", "") == above


def test_a_waiver_file_that_is_named_must_be_there(repository):
    _all_held(repository)

    assert "there is no missing.toml" in repository.cli("gate", "--waivers=missing.toml", status=2)


def test_gate_opens_on_what_is_demanded(repository):
    _all_held(repository)

    assert "the gate is open" in repository.cli("gate")
    assert "the gate is shut: 3 reasons" in repository.cli("gate", "--require=DISCHARGED", status=1)


def test_gate_without_a_ledger_is_shut(repository):
    assert "FALSIFY-A-1 is not in the ledger" in repository.cli("gate", REQUIRE, status=1)


def test_gate_denies_what_fell_below_the_base_though_it_is_enough(repository):
    _all_held(repository)
    repository.commit()
    repository.ledger.unlink()
    _all_held(repository, target="tiny")

    assert "the gate is open" in repository.cli("gate", REQUIRE)
    out = repository.cli("gate", REQUIRE, "--base", "HEAD", status=1)
    assert "denied: contracts/a.yaml:11: FALSIFY-A-1 fell from FUNCTIONAL to PARTIAL" in out


def test_gate_sees_a_refutation_that_vanished(repository):
    _all_held(repository)
    repository.on_file(repository.evidence(A1, "refuted", on="b"))
    repository.commit()
    repository.ledger.unlink()
    _all_held(repository)

    assert "the gate is open" in repository.cli("gate")
    out = repository.cli("gate", "--base", "HEAD", status=1)
    assert "a refutation of FALSIFY-A-1 on teacher vanished" in out


def test_gate_takes_a_retraction_that_says_who_and_why(repository):
    _all_held(repository)
    repository.on_file(refuted := repository.evidence(A1, "refuted", on="b"))
    repository.commit()
    assert "is FALSIFIED" in repository.cli("gate", status=1)
    answers = ("--who", "ada", "--why", "the oracle was broken")

    repository.cli("retract", A1, refuted.id[:20], *answers)

    assert "the gate is open" in repository.cli("gate", "--base", "HEAD")
    assert "retracted by ada: the oracle was broken" in repository.cli("why", A1)


def test_gate_does_not_open_for_a_ledger_edited_by_hand(repository):
    repository.on_file(repository.evidence(A1, target="tiny"))
    text = repository.ledger.read_text().replace('"PARTIAL"', '"FUNCTIONAL"')
    repository.ledger.write_text(text)

    out = repository.cli("gate", REQUIRE, status=1)

    (denied,) = re.findall("^denied: .*", out, re.MULTILINE)
    assert denied.startswith("denied: evidence/C-A.json:4: the status of FALSIFY-A-1")
    assert "the gate is shut: 1 reason\n" in out


WAIVER = """
[[waiver]]
contract = "C-A"
falsifier = "FALSIFY-A-1"
who = "ada"
why = "a rewrite"
until = {until}
"""


@pytest.mark.parametrize(
    ("days", "status", "words"),
    [(1, 0, "waived until"), (-1, 1, "the waiver of ada for FALSIFY-A-1 ended")],
)
def test_gate_takes_a_waiver_until_its_last_day(repository, days, status, words):
    repository.on_file(*(repository.evidence(each) for each in (A2, A3)))
    until = dt.datetime.now(tz=dt.UTC).date() + dt.timedelta(days=days)
    (repository.path / "falsify-waivers.toml").write_text(WAIVER.format(until=until))

    assert words in repository.cli("gate", status=status)


def test_gate_says_which_waiver_nothing_needs(repository):
    _all_held(repository)
    (repository.path / "falsify-waivers.toml").write_text(WAIVER.format(until="2999-01-01"))

    assert "nothing needs the waiver of FALSIFY-A-1" in repository.cli("gate")


def test_gate_with_broken_waivers_ends_with_status_2(repository):
    (repository.path / "falsify-waivers.toml").write_text("[[waiver]]\nwho = 1\n")

    assert "falsify-waivers.toml:1" in repository.cli("gate", status=2)


def test_the_records_of_two_machines_discharge_together(repository):
    one = repository.run_record("one", repository.evidence(A1, on="a"))
    two = repository.run_record("two", repository.evidence(A1, on="b"))

    repository.cli("merge", one)
    assert "FALSIFY-A-1  FUNCTIONAL" in repository.cli("status")
    out = repository.cli("merge", two)

    assert out == "evidence/C-A.json: updated, 1 record\n"
    assert "FALSIFY-A-1  DISCHARGED" in repository.cli("status")
    before = repository.ledger.read_bytes()
    assert "unchanged, 2 records" in repository.cli("merge", "runs")
    assert repository.ledger.read_bytes() == before


@pytest.mark.parametrize("ended", [True, False])
def test_of_an_incomplete_record_only_the_refutations_are_merged(repository, ended):
    seen = (repository.evidence(A1), repository.evidence(A2, "refuted"))
    path = repository.run_record("one", *seen, complete=False, ended=ended)

    out = repository.cli("merge", path)

    assert "runs/one.jsonl: the session was not complete; only its refutations count" in out
    statuses = json.loads(repository.cli("status", "--format", "json"))["C-A"]
    assert (statuses[A1]["status"], statuses[A2]["status"]) == ("UNTRIED", "FALSIFIED")
    assert path.read_text().splitlines()[-1].count('"kind":"trailer"') == 1


def test_merge_leaves_other_files_beside_a_record_alone(repository):
    path = repository.run_record("one", repository.evidence(A1))
    stranger = path.with_name("events.jsonl")
    stranger.write_text("not a record\n")

    repository.cli("merge", path)

    assert stranger.read_text() == "not a record\n"
    assert "runs/events.jsonl:1: a line of the run record" in repository.cli(
        "merge", "runs", status=2
    )


def test_merge_of_an_edited_record_changes_nothing(repository):
    path = repository.run_record("one", repository.evidence(A1, "refuted"))
    path.write_text(path.read_text().replace('"refuted"', '"held"'))

    out = repository.cli("merge", path, status=2)

    assert "runs/one.jsonl:2: the id of evidence of FALSIFY-A-1 on teacher does not match" in out
    assert not repository.ledger.exists()


def test_merge_of_an_empty_folder_is_told(repository):
    (repository.path / "runs").mkdir()

    assert "there is no run record here" in repository.cli("merge", "runs", status=2)


def test_verify_names_each_edit(repository):
    _all_held(repository)
    assert "1 ledger verified, 0 problems" in repository.cli("verify")
    repository.ledger.write_text(repository.ledger.read_text().replace("  ", " "))

    out = repository.cli("verify", status=1)

    assert "evidence/C-A.json:2: the ledger is not spelled as it would be written" in out


def test_log_walks_the_history_newest_first(repository):
    repository.on_file(repository.evidence(A1, target="tiny"))
    repository.commit("a laptop")
    repository.on_file(repository.evidence(A1))
    repository.commit("a server")
    repository.on_file(repository.evidence(A2))
    repository.commit("another falsifier")

    out = repository.cli("log", A1)

    assert out.find("FUNCTIONAL a server") < out.find("PARTIAL    a laptop")
    assert "another falsifier" not in out
    assert out.count("(ada)") == 2


def test_retract_needs_exactly_one_refutation(repository):
    _all_held(repository)

    out = repository.cli("retract", A1, "sha256:", "--who", "ada", "--why", "x", status=2)

    assert "0 refutations of FALSIFY-A-1" in out


def test_retract_without_a_ledger_says_what_to_run(repository):
    out = repository.cli("retract", A1, "sha256:0", "--who", "ada", "--why", "x", status=2)

    assert "to mend: run pytest --falsify first" in out
