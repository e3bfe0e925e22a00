"""What a run does to a ledger, and what it leaves alone."""

from __future__ import annotations

import pytest
from ledger_samples import (
    CAUGHT,
    CONTRACT,
    FALSIFIER,
    OLD_ENTRY,
    OLD_SUBJECT,
    SUBJECT,
    TODAY,
    evidence,
    facts,
    machine,
    observe,
)

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.digests import Digests
from pytest_falsify.ledger.document import to_text
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.ledger.merge import fold, merge, retract
from pytest_falsify.ledger.observation import Observation
from pytest_falsify.ledger.status import Status, judge

LIVE = evidence(faults=CAUGHT)


def run(ledger, *records, **changes):
    return fold(ledger, CONTRACT, {FALSIFIER: facts(**changes)}, observe(*records))


def status(ledger):
    return judge(ledger.blocks[FALSIFIER])[0]


def outcomes(ledger):
    return [each.outcome.value for each in ledger.blocks[FALSIFIER].evidence]


def test_an_entry_new_to_the_ledger_is_untried():
    assert status(run(None)) is Status.UNTRIED


def test_an_entry_that_the_contract_dropped_leaves_the_ledger():
    assert fold(run(None, LIVE), CONTRACT, {}, []).blocks == {}


def test_another_machine_that_merely_confirms_changes_no_byte():
    tiny = evidence(target="tiny", source="algorithm")
    ledger = run(None, tiny)
    assert run(ledger, evidence(target="tiny", source="algorithm", on="b")) is not None
    again = run(ledger, evidence(target="tiny", source="algorithm", on="b"))
    assert to_text(again) == to_text(ledger)


def test_a_third_machine_adds_nothing_to_what_two_discharged():
    ledger = run(run(None, LIVE), evidence(faults=CAUGHT, on="b"))
    assert status(ledger) is Status.DISCHARGED
    assert run(ledger, evidence(faults=CAUGHT, on="c")) == ledger


def test_each_machine_towards_a_larger_demand_is_recorded():
    ledger = None
    for name in "abc":
        record = evidence(faults=CAUGHT, on=name)
        ledger = run(ledger, record, discharge={"machines": 3})
    assert status(ledger) is Status.DISCHARGED


def test_the_same_observation_with_other_numbers_changes_no_byte():
    ledger = run(None, LIVE)
    assert run(ledger, evidence(faults=CAUGHT, observed={"rel_l2": 0.5})) == ledger


@pytest.mark.parametrize("outcome", ["blocked", "inconclusive"])
def test_a_try_that_decides_nothing_does_not_replace_one_that_held(outcome):
    ledger = run(None, LIVE)
    assert run(ledger, evidence(outcome, on="b")) == ledger


def test_a_blocked_machine_with_another_reason_does_not_churn_the_ledger():
    ledger = run(None, evidence("blocked", reasons=("no CUDA device",)))
    other = evidence("blocked", on="b", reasons=("needs 24 GiB, has 16 GiB",))
    assert run(ledger, other) == ledger


def test_a_machine_that_knows_no_digest_leaves_those_on_file():
    ledger = run(None, LIVE)
    blocked = evidence("blocked", on="b", subject=None, oracle=None, inputs=None)
    assert run(ledger, blocked) == ledger


def test_a_blocked_machine_that_sees_new_sources_makes_the_evidence_stale():
    ledger = run(None, LIVE)
    blocked = evidence("blocked", on="b", subject=OLD_SUBJECT, oracle=None, inputs=None)
    assert status(run(ledger, blocked)) is Status.STALE


def test_digests_alone_can_make_the_evidence_stale():
    ledger = run(None, LIVE)
    seen = Observation(
        contract=CONTRACT, falsifier=FALSIFIER, target="teacher", today=Digests(subject=OLD_SUBJECT)
    )
    after = fold(ledger, CONTRACT, {FALSIFIER: facts()}, [seen])
    assert status(after) is Status.STALE


def test_a_changed_entry_makes_the_evidence_stale_and_its_words_say_so():
    ledger = run(run(None, LIVE), entry=OLD_ENTRY)
    assert judge(ledger.blocks[FALSIFIER]) == (
        Status.STALE,
        "was FUNCTIONAL on teacher before the entry changed",
    )


def test_stale_evidence_is_kept_until_something_fresh_decides():
    ledger = run(None, evidence(subject=OLD_SUBJECT))
    tried = run(ledger, evidence("inconclusive"))
    assert status(tried) is Status.STALE
    assert outcomes(run(tried, LIVE)) == ["held"]


def test_a_fix_makes_the_refutation_stale_by_itself():
    refuted = run(None, evidence("refuted", subject=OLD_SUBJECT))
    assert status(refuted) is Status.FALSIFIED
    assert status(run(refuted, LIVE)) is Status.FUNCTIONAL


def test_one_refutation_beats_any_number_of_confirmations():
    ledger = run(None, *(evidence(faults=CAUGHT, on=each) for each in "abcd"))
    assert status(run(ledger, evidence("refuted", on="e"))) is Status.FALSIFIED


def test_every_machine_that_refutes_is_recorded():
    ledger = run(run(None, evidence("refuted")), evidence("refuted", on="b"))
    assert outcomes(ledger) == ["refuted", "refuted"]


def test_a_target_that_the_entry_dropped_supports_nothing():
    ledger = run(run(None, LIVE), targets=("tiny",))
    assert status(ledger) is Status.UNTRIED


def test_a_bound_python_test_is_evidence_though_no_target_lists_it():
    bound = evidence(target="tests/test_norm.py::test_norm", source="bound")
    assert status(run(run(None, bound))) is Status.PARTIAL


def test_two_subjects_in_one_run_are_disputed_until_the_next_run():
    ledger = run(None, LIVE, evidence(faults=CAUGHT, on="b", subject=OLD_SUBJECT))
    assert status(ledger) is Status.STALE
    assert status(run(ledger, LIVE)) is Status.FUNCTIONAL


def test_observations_of_other_contracts_are_passed_over():
    stranger = Observation.of("C-OTHER", LIVE)
    assert status(fold(None, CONTRACT, {FALSIFIER: facts()}, [stranger])) is Status.UNTRIED


def test_a_retraction_lifts_a_refutation_and_keeps_it_on_file():
    ledger = run(None, LIVE, evidence("refuted", on="b"))
    refuted = next(e for e in ledger.blocks[FALSIFIER].evidence if e.outcome is Outcome.REFUTED)
    mended = retract(ledger, FALSIFIER, refuted.id[:20], who="ada", why="bad memory")
    assert status(mended) is Status.FUNCTIONAL
    assert "refuted" in outcomes(mended)
    assert run(mended, LIVE) == mended


def test_a_retraction_survives_a_merge_with_a_ledger_that_does_not_know_it():
    ledger = run(None, LIVE, evidence("refuted", on="b"))
    mended = retract(ledger, FALSIFIER, evidence("refuted", on="b").id, who="ada", why="memory")
    assert mended == merge(ledger, mended)


def test_a_refutation_that_is_seen_again_lifts_its_retraction():
    refutation = evidence("refuted")
    ledger = retract(run(None, refutation), FALSIFIER, refutation.id, who="ada", why="bad memory")
    assert status(run(ledger, refutation)) is Status.FALSIFIED


@pytest.mark.parametrize(
    ("id_", "who", "why"), [("f00", "ada", "no"), ("", "", "x"), ("", "a", "")]
)
def test_a_retraction_without_aim_name_or_reason_is_refused(id_, who, why):
    ledger = run(None, evidence("refuted", subject=SUBJECT))
    with pytest.raises(LedgerError):
        retract(ledger, FALSIFIER, id_ or "sha256:", who=who, why=why)


def test_a_machine_with_several_records_does_not_stand_for_two():
    again = [evidence(faults=CAUGHT, observed={"repeats": count}) for count in (1, 2, 3, 4)]
    ledger = run(None, *again)
    assert status(ledger) is Status.FUNCTIONAL
    assert "1 more machine" in judge(ledger.blocks[FALSIFIER])[1]


@pytest.mark.parametrize("name", "bcdefgh")
def test_many_records_of_one_machine_do_not_push_out_the_second(name):
    again = [evidence(faults=CAUGHT, observed={"repeats": count}) for count in (1, 2, 3, 4)]
    ledger = run(run(None, *again), evidence(faults=CAUGHT, on=name))
    assert status(ledger) is Status.DISCHARGED
    assert {machine("a"), machine(name)} == {e.machine for e in ledger.blocks[FALSIFIER].evidence}


def test_a_retraction_outlives_a_change_and_a_branch_that_does_not_know_it():
    refutation = evidence("refuted", subject=OLD_SUBJECT)
    theirs = run(None, refutation)
    ours = retract(theirs, FALSIFIER, refutation.id, who="ada", why="bad memory")
    changed = Observation(
        contract=CONTRACT, falsifier=FALSIFIER, target="teacher", today=TODAY, evidence=None
    )
    later = fold(ours, CONTRACT, {FALSIFIER: facts()}, [changed])
    assert status(later) is Status.UNTRIED
    assert [each.retracted.who for each in later.blocks[FALSIFIER].evidence] == ["ada"]
    assert status(fold(merge(theirs, later), CONTRACT, {FALSIFIER: facts()}, [changed])) is (
        Status.UNTRIED
    )
