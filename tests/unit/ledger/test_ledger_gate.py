"""The gate denies unless everything that is demanded is on file."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from ledger_samples import (
    CAUGHT,
    CONTRACT,
    FALSIFIER,
    OLD_ENTRY,
    OLD_SUBJECT,
    evidence,
    facts,
    observe,
)

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger import waivers as waiver_files
from pytest_falsify.ledger.gate import Rule, gate
from pytest_falsify.ledger.merge import fold, retract
from pytest_falsify.ledger.status import Status
from pytest_falsify.ledger.waivers import Waiver

TODAY = dt.date(2030, 1, 1)
LIVE, SECOND = evidence(faults=CAUGHT), evidence(faults=CAUGHT, on="b")
REFUTED = evidence("refuted", on="c")


def run(*records, before=None, **changes):
    entries = {FALSIFIER: facts(**changes)}
    return fold(before, CONTRACT, entries, observe(*records))


def decide(head, base=None, *, entries=None, **changes):
    known = entries or {CONTRACT: {FALSIFIER: facts()}}
    bases = None if base is None else {CONTRACT: base}
    heads = {} if head is None else {CONTRACT: head}
    return gate(heads, known, bases=bases, today=TODAY, **changes)


def rules(decision):
    return [each.rule for each in decision.denials]


def waiver(**changes):
    values = {"contract": CONTRACT, "falsifier": FALSIFIER, "who": "ada", "why": "rewriting it"}
    return Waiver(**{**values, "until": TODAY, **changes})


def required(status):
    return {CONTRACT: {FALSIFIER: facts(require=status)}}


def test_what_is_demanded_and_on_file_passes():
    decision = decide(run(LIVE))
    assert decision.is_allowed
    assert rules(decision) == []


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (None, [Rule.ABSENT]),
        (run(), [Rule.BELOW]),
        (run(evidence("blocked")), [Rule.BELOW]),
        (run(evidence(target="tiny", source="algorithm")), [Rule.BELOW]),
        (run(LIVE, REFUTED), [Rule.BELOW]),
        (run(before=run(LIVE), entry=OLD_ENTRY), [Rule.ABSENT, Rule.STALE]),
        (run(evidence("blocked", subject=OLD_SUBJECT), before=run(LIVE)), [Rule.STALE]),
    ],
)
def test_anything_less_is_denied(head, expected):
    assert expected == rules(decide(head))


def test_an_entry_may_demand_more_or_less_than_the_default():
    assert rules(decide(run(LIVE), entries=required("DISCHARGED"))) == [Rule.BELOW]
    tiny = run(evidence(target="tiny", source="algorithm"))
    assert decide(tiny, entries=required("PARTIAL_ALGORITHM_LEVEL")).is_allowed
    assert decide(tiny, demanded=Status.PARTIAL).is_allowed


def test_a_fall_below_the_base_is_denied_though_the_demand_is_met():
    (denial,) = decide(run(LIVE), run(LIVE, SECOND)).denials
    assert denial.rule is Rule.FELL
    assert "fell from DISCHARGED to FUNCTIONAL: held live on teacher (1 machine)" in denial.because


def test_a_denial_says_where_the_entry_is_and_what_to_do():
    entries = {CONTRACT: {FALSIFIER: facts(path="contracts/c.yaml", line=12)}}
    (denial,) = decide(run(), entries=entries).denials
    assert denial.path == "contracts/c.yaml"
    assert denial.line == 12
    assert denial.remedy == f"pytest-falsify why {FALSIFIER}"


def without_refutations(ledger):
    block = ledger.blocks[FALSIFIER]
    kept = tuple(each for each in block.evidence if each.outcome.value != "refuted")
    return replace(ledger, blocks={FALSIFIER: replace(block, evidence=kept)})


def test_a_refutation_that_vanished_is_denied():
    base = run(LIVE, REFUTED)
    assert rules(decide(without_refutations(base), base)) == [Rule.VANISHED]


def test_a_refutation_that_vanished_with_its_entry_or_its_ledger_is_denied():
    base = run(LIVE, REFUTED)
    entries = {CONTRACT: {"FALSIFY-OTHER": facts()}}
    other = fold(None, CONTRACT, entries[CONTRACT], observe(evidence(falsifier="FALSIFY-OTHER")))
    assert rules(decide(other, base, entries=entries)) == [Rule.VANISHED]
    assert Rule.VANISHED in rules(decide(None, base))


def test_a_refutation_may_go_when_a_digest_changed_or_somebody_retracted_it():
    base = run(evidence("refuted", subject=OLD_SUBJECT))
    assert decide(run(LIVE, before=base), base).is_allowed
    base = run(LIVE, REFUTED)
    assert decide(retract(base, FALSIFIER, REFUTED.id, who="ada", why="memory"), base).is_allowed


def test_no_waiver_hides_a_refutation_that_vanished():
    base = run(LIVE, REFUTED)
    decision = decide(without_refutations(base), base, waivers=[waiver(accepts=Status.FALSIFIED)])
    assert rules(decision) == [Rule.VANISHED]


def test_nothing_to_judge_is_denied():
    assert rules(gate({}, {}, today=TODAY)) == [Rule.EMPTY]
    assert rules(gate({}, {CONTRACT: {}}, today=TODAY)) == [Rule.EMPTY]


def test_an_incomplete_run_and_a_broken_ledger_are_denied():
    problem = LedgerError("the ledger is not JSON", path="evidence/c.json", line=3)
    decision = decide(run(LIVE), is_complete=False, problems=[problem])
    assert rules(decision) == [Rule.INCOMPLETE, Rule.UNREADABLE]
    assert decision.denials[1].line == 3


def test_a_waiver_lets_pass_until_its_day_is_over():
    tiny = run(evidence(target="tiny", source="algorithm"))
    decision = decide(tiny, waivers=[waiver()])
    assert decision.is_allowed
    assert [each.who for _, each in decision.waived] == ["ada"]
    expired = decide(tiny, waivers=[waiver(until=TODAY - dt.timedelta(days=1))])
    assert rules(expired) == [Rule.BELOW, Rule.EXPIRED]


def test_an_expired_waiver_is_denied_though_nothing_needs_it():
    expired = waiver(until=TODAY - dt.timedelta(days=1))
    assert rules(decide(run(LIVE), waivers=[expired])) == [Rule.EXPIRED]


def test_a_refutation_has_to_be_waived_by_name():
    head = run(LIVE, REFUTED)
    assert rules(decide(head, waivers=[waiver()])) == [Rule.BELOW]
    assert decide(head, waivers=[waiver(accepts=Status.FALSIFIED)]).is_allowed


def test_a_waiver_for_something_else_lets_nothing_pass_and_is_named():
    stranger = waiver(falsifier="FALSIFY-OTHER")
    decision = decide(run(), waivers=[stranger])
    assert rules(decision) == [Rule.BELOW]
    assert (stranger,) == decision.unused


TOML = """
[[waiver]]
contract = "C-TEST"
falsifier = "FALSIFY-TEST-001"
who = "ada"
why = "rewriting it"
until = 2030-01-01
"""


def test_waivers_are_read_with_their_lines():
    (found,) = waiver_files.parse(TOML, "waivers.toml")
    assert waiver(path="waivers.toml", line=2) == found


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('who = "ada"', "", "no 'who'"),
        ('who = "ada"', 'who = " "', "'who' of a waiver is empty"),
        ("until = 2030-01-01", 'until = "soon"', "'until'"),
        ("until = 2030-01-01", "until = 2030-01-01T00:00:00Z", "'until'"),
        ("why", "because", "unknown key|no 'why'"),
        ("[[waiver]]", "[[waver]]", "unknown key 'waver'"),
        ("[[waiver]]", "[[waiver", "cannot be read"),
        ("until", 'accepts = "FINE"\nuntil', "not a status"),
        ("\n[[", TOML + "\n[[", "twice"),
    ],
)
def test_a_senseless_waiver_is_refused_with_its_place(old, new, what):
    with pytest.raises(LedgerError, match=what) as caught:
        waiver_files.parse(TOML.replace(old, new, 1), "waivers.toml")
    assert caught.value.path == "waivers.toml"


def test_without_a_file_there_are_no_waivers(tmp_path):
    assert waiver_files.read(tmp_path / "waivers.toml") == ()
    (tmp_path / "waivers.toml").write_text(TOML)
    assert len(waiver_files.read(tmp_path / "waivers.toml")) == 1
