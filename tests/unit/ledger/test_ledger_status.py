"""The table of statuses, row by row, with the words that go with each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ledger_samples import (
    CAUGHT,
    ENTRY,
    OLD_ENTRY,
    OLD_SUBJECT,
    SUBJECT,
    TODAY,
    block,
    evidence,
)

from pytest_falsify.canonical import digest
from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.digests import DISPUTED, Digests
from pytest_falsify.ledger.discharge import Discharge
from pytest_falsify.ledger.evidence import Retraction, Signature
from pytest_falsify.ledger.status import Status, judge, judge_anew, weakest

LIVE = evidence(faults=CAUGHT)
SECOND = evidence(faults=CAUGHT, on="b")
TINY = evidence(target="tiny", source="algorithm")
REFUTED = evidence("refuted")
WRONG = Retraction(who="ada", why="bad memory")
MISSED = {"planted": 8, "caught": 7}
CACHED = {"caveats": ["a part of a prompt came from the server's cache"], "bit_equal": True}


@pytest.mark.parametrize(
    ("records", "status", "because"),
    [
        ([], "UNTRIED", "no evidence"),
        (
            [evidence("inconclusive")],
            "UNTRIED",
            "inconclusive on teacher: inconclusive for a reason",
        ),
        ([evidence("blocked")], "BLOCKED", "blocked on teacher: blocked for a reason"),
        (
            [evidence("blocked"), evidence("inconclusive", "tiny")],
            "BLOCKED",
            (
                "blocked on teacher: blocked for a reason; "
                "inconclusive on tiny: inconclusive for a reason"
            ),
        ),
        ([TINY], "PARTIAL", "held on tiny (algorithm); FUNCTIONAL needs a live target"),
        (
            [TINY, evidence("blocked")],
            "PARTIAL",
            "held on tiny (algorithm); FUNCTIONAL needs a live target; blocked on teacher",
        ),
        (
            [evidence(source="recorded")],
            "PARTIAL",
            "held on teacher (recorded); FUNCTIONAL needs a live target",
        ),
        (
            [evidence()],
            "FUNCTIONAL",
            "held live on teacher; DISCHARGED needs planted faults that are all caught",
        ),
        (
            [evidence(faults=MISSED), evidence(faults=MISSED, on="b")],
            "FUNCTIONAL",
            (
                "held live on teacher, vacuous: 7 of 8 planted faults caught; "
                "DISCHARGED needs planted faults that are all caught"
            ),
        ),
        (
            [evidence(target="tiny", source="algorithm", faults=MISSED)],
            "PARTIAL",
            (
                "held on tiny (algorithm), vacuous: 7 of 8 planted faults caught; "
                "FUNCTIONAL needs a live target"
            ),
        ),
        (
            [LIVE],
            "FUNCTIONAL",
            "held live on teacher (1 machine); DISCHARGED needs 1 more machine or bit-equality",
        ),
        (
            [LIVE, SECOND],
            "DISCHARGED",
            "held live on teacher, planted faults caught, on 2 machines",
        ),
        (
            [evidence(faults=CAUGHT, observed={"bit_equal": True})],
            "DISCHARGED",
            "held live on teacher, planted faults caught, bit-equal to the oracle",
        ),
        (
            [evidence(faults=CAUGHT, observed=CACHED, on=each) for each in "abc"],
            "FUNCTIONAL",
            (
                "held live on teacher, with caveats: a part of a prompt came from the server's "
                "cache; DISCHARGED needs a run without caveats"
            ),
        ),
        (
            [LIVE, evidence(faults=CAUGHT, observed=CACHED, on="b")],
            "FUNCTIONAL",
            "held live on teacher (1 machine); DISCHARGED needs 1 more machine or bit-equality",
        ),
        ([LIVE, SECOND, REFUTED], "FALSIFIED", "refuted on teacher: refuted for a reason"),
        (
            [evidence(entry=OLD_ENTRY, faults=CAUGHT)],
            "STALE",
            "was FUNCTIONAL on teacher before the entry changed",
        ),
        (
            [evidence("refuted", subject=OLD_SUBJECT)],
            "STALE",
            "was FALSIFIED on teacher before the subject changed",
        ),
        (
            [TINY, evidence(subject=OLD_SUBJECT)],
            "PARTIAL",
            (
                "held on tiny (algorithm); FUNCTIONAL needs a live target; "
                "was FUNCTIONAL on teacher before the subject changed"
            ),
        ),
    ],
)
def test_the_status_is_what_the_table_says(records, status, because):
    assert (Status(status), because) == judge(block(*records))


def test_faults_on_one_machine_and_another_machine_without_do_not_discharge():
    assert judge(block(LIVE, evidence(on="b")))[0] is Status.FUNCTIONAL


def test_two_machines_with_different_subjects_do_not_discharge():
    other = evidence(faults=CAUGHT, on="b", subject=OLD_SUBJECT)
    assert judge(block(LIVE, other))[0] is Status.FUNCTIONAL


def test_records_with_other_numbers_and_names_leave_blocks_alike():
    other = {"falsifier": "FALSIFY-OTHER", "observed": {"worst": 0.5}, "coverage": {}}
    more = evidence(target="tiny", source="algorithm", **other)
    others = block(evidence(faults=CAUGHT, **other), more)
    assert block(LIVE, TINY).likeness == others.likeness


@pytest.mark.parametrize(
    "blocks",
    [
        [block(LIVE), block(evidence(faults=MISSED))],
        [block(evidence(faults={**MISSED, "caught": each})) for each in (1, True, 2)],
        [
            block(
                evidence(faults=CAUGHT, observed={"repeats": each}), discharge=Discharge(repeats=2)
            )
            for each in (1, 3)
        ],
        [block(evidence("refuted", reasons=(each,))) for each in ("this", "that")],
        [block(REFUTED), block(evidence("refuted", retracted=WRONG))],
        [block(LIVE, evidence(faults=CAUGHT, on=each)) for each in "ab"],
        [block(LIVE, entry=each) for each in (ENTRY, OLD_ENTRY, DISPUTED)],
        [
            block(*(evidence(faults=CAUGHT, entry=digest(e), on=m) for e, m in (each, ("x", "b"))))
            for each in (("x", "a"), ("y", "a"))
        ],
        [
            block(LIVE, SECOND, today=replace(TODAY, subject=each))
            for each in (SUBJECT, OLD_SUBJECT, DISPUTED)
        ],
        [block(LIVE, SECOND, discharge=Discharge(machines=each)) for each in (2, 3, 4)],
        [
            block(evidence(faults=CAUGHT, signature=each), discharge=Discharge(signed=True))
            for each in (None, Signature(signer="ada", armour="A"))
        ],
    ],
)
def test_blocks_that_are_judged_in_other_words_are_not_alike(blocks):
    judged = [judge_anew(each) for each in blocks]
    assert len({each.likeness for each in blocks}) == len(set(judged)) == len(blocks)
    assert [judge(each) for each in blocks] == judged


def test_a_retracted_refutation_counts_no_more():
    retracted = evidence("refuted", retracted=WRONG)
    assert judge(block(LIVE, SECOND, retracted))[0] is Status.DISCHARGED


def test_nothing_that_held_may_be_retracted():
    with pytest.raises(LedgerError, match="retraction"):
        evidence(retracted=Retraction(who="ada", why="no"))


@pytest.mark.parametrize(
    ("discharge", "records", "status"),
    [
        (Discharge(machines=3), [LIVE, SECOND], "FUNCTIONAL"),
        (Discharge(machines=3), [LIVE, SECOND, evidence(faults=CAUGHT, on="c")], "DISCHARGED"),
        (
            Discharge(machines=2),
            [evidence(faults=CAUGHT, observed={"bit_equal": True})],
            "FUNCTIONAL",
        ),
        (Discharge(platforms=("H200",)), [LIVE, SECOND], "FUNCTIONAL"),
        (
            Discharge(platforms=("H200",)),
            [LIVE, evidence(faults=CAUGHT, on="b", platform="linux, NVIDIA H200")],
            "DISCHARGED",
        ),
        (Discharge(repeats=2), [LIVE, SECOND], "FUNCTIONAL"),
        (
            Discharge(repeats=2),
            [evidence(faults=CAUGHT, on=each, observed={"repeats": 2}) for each in "ab"],
            "DISCHARGED",
        ),
        (Discharge(signed=True), [LIVE, SECOND], "FUNCTIONAL"),
        (
            Discharge(signed=True),
            [
                evidence(faults=CAUGHT, on=each, signature=Signature(signer="ada", armour="A"))
                for each in "ab"
            ],
            "DISCHARGED",
        ),
    ],
)
def test_an_entry_may_ask_for_more(discharge, records, status):
    assert Status(status) is judge(block(*records, discharge=discharge))[0]


@pytest.mark.parametrize("demand", [{"machines": 0}, {"machines": True}, {"hosts": 2}])
def test_a_senseless_demand_is_refused(demand):
    with pytest.raises(LedgerError):
        Discharge.from_mapping(demand)


def test_where_records_dispute_today_confirmations_are_stale_and_refutations_count():
    disputed = Digests(subject=DISPUTED, oracle=TODAY.oracle, inputs=TODAY.inputs)
    status, because = judge(block(LIVE, SECOND, today=disputed))
    assert status is Status.STALE
    assert because == (
        "was DISCHARGED on teacher; merged records disagree about the subject: run it again"
    )
    assert judge(block(LIVE, REFUTED, today=disputed))[0] is Status.FALSIFIED


def test_a_refutation_that_did_not_know_a_digest_counts_when_it_becomes_known():
    assert judge(block(evidence("refuted", oracle=None)))[0] is Status.FALSIFIED


def test_a_confirmation_that_did_not_know_a_digest_does_not_count():
    assert judge(block(evidence(oracle=None)))[0] is Status.STALE


def test_long_names_of_the_field_are_aliases():
    assert Status.parse("PARTIAL_ALGORITHM_LEVEL") is Status.PARTIAL
    assert Status.parse("BLOCKER_FIXTURE_ABSENT") is Status.BLOCKED
    assert Status.parse("functional") is Status.FUNCTIONAL
    with pytest.raises(LedgerError, match="VERIFIED"):
        Status.parse("VERIFIED")


def test_the_weakest_of_some_is_the_worst():
    assert weakest([Status.DISCHARGED, Status.STALE, Status.PARTIAL]) is Status.STALE
    assert weakest([]) is Status.UNTRIED
