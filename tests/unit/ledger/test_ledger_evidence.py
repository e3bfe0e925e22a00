"""A record is what it says: small, finite, and another one as soon as its ground is another."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_samples import OLD_ENTRY, OLD_SUBJECT, TODAY, evidence, observe, records

from pytest_falsify.canonical import canonical_bytes, digest
from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.digests import Digests
from pytest_falsify.ledger.evidence import Evidence, Retraction, Signature
from pytest_falsify.ledger.observation import Observation
from pytest_falsify.ledger.settling import settle

repeats = st.sampled_from([0, 1, False, True])
"""Equal in pairs, and not spelled alike."""


@given(records())
def test_a_record_survives_json(record):
    assert record == Evidence.from_json(json.loads(json.dumps(record.to_json())))


@given(records())
def test_an_observation_survives_json(record):
    (seen,) = observe(record)
    assert seen == Observation.from_json(json.loads(json.dumps(seen.to_json())))


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "refuted"},
        {"target": "tiny"},
        {"source": "recorded"},
        {"on": "b"},
        {"entry": OLD_ENTRY},
        {"subject": OLD_SUBJECT},
        {"subject": None},
        {"oracle": None},
        {"inputs": None},
        {"falsifier": "FALSIFY-OTHER"},
        {"platform": "darwin"},
        {"faults": {"planted": 8, "caught": 8}},
        {"observed": {"bit_equal": True}},
        {"observed": {"repeats": 9}},
    ],
)
def test_whatever_a_verdict_depends_on_makes_it_another_piece_of_evidence(change):
    assert evidence().id != evidence(**change).id


@pytest.mark.parametrize(
    "change",
    [
        {"observed": {}},
        {"coverage": {}},
        {"faults": {"planted": 8, "caught": 7}},
        {"reasons": ("because",)},
    ],
)
def test_numbers_and_words_change_the_content_but_not_the_identity(change):
    assert evidence().id == evidence(**change).id
    assert evidence().content != evidence(**change).content


@pytest.mark.parametrize("name", ["entry", "machine", "subject", "oracle", "inputs"])
@pytest.mark.parametrize("value", ["", "sha256:12", "sha256:" + "G" * 64, 7])
def test_what_is_no_digest_is_refused(name, value):
    with pytest.raises(LedgerError, match=name):
        evidence(**{name: value})


def test_observed_numbers_keep_three_significant_digits():
    assert settle({"a": [0.00314159, (1234567.0,)], "b": 12345}) == {
        "a": [0.00314, [1230000.0]],
        "b": 12345,
    }


def test_numbers_that_are_not_finite_are_spelled_out():
    values = [float("nan"), float("inf"), -float("inf")]
    assert settle(values) == ["nan", "inf", "-inf"]
    assert evidence(observed={"max_abs": values[0]}).observed == {"max_abs": "nan"}


def test_words_that_utf8_cannot_spell_are_recorded_with_question_marks():
    record = evidence(reasons=("no file \udcff",), observed={"worst \udcff": ["\udcff"]})
    assert (record.reasons, record.observed) == (("no file ?",), {"worst ?": ["?"]})
    assert record == Evidence.from_json(json.loads(canonical_bytes(record.to_json())))


@pytest.mark.parametrize("value", [{1: 2}, {"a": object()}, {"a": {1, 2}}])
def test_what_is_not_json_is_no_evidence(value):
    with pytest.raises(LedgerError):
        evidence(observed=value)


@pytest.mark.parametrize("name", ["id", "content", "observed", "target"])
def test_a_record_without_a_member_is_refused(name):
    value = evidence().to_json()
    del value[name]
    with pytest.raises(LedgerError, match=name):
        Evidence.from_json(value)


@given(records(), st.text(), st.text(), st.text(), repeats)
def test_an_id_is_the_digest_of_all_that_a_status_is_computed_from(record, id_, target, on, times):
    observed = {**record.observed, "repeats": times}
    record = replace(record, falsifier=id_, target=target, platform=on, observed=observed)
    ground = [
        record.falsifier,
        record.entry,
        record.target,
        *record.digests.values(),
        record.machine,
        record.outcome.value,
        record.source.value,
        record.platform,
        record.has_caught_all,
        record.is_bit_equal,
        record.repeats,
        *record.caveats,
    ]
    assert digest(ground) == record.id


def test_a_mark_leaves_the_numbers_of_a_record_as_they_were_read():
    value = evidence("refuted").to_json() | {"observed": {"rel_l2": 0.0031416}}
    said = [value[name] for name in ("id", "platform", "reasons", "observed", "coverage")]
    record = Evidence.from_json(value | {"content": digest([*said, None])})
    for mark in (
        {"retracted": Retraction(who="ada", why="bad memory")},
        {"signature": Signature(signer="ada", armour="AAAA")},
    ):
        marked = record.marked(**mark)
        assert {**record.to_json(), **mark} == {**marked.to_json(), **mark}
        assert replace(record, **mark).observed == {"rel_l2": 0.00314}


def test_an_observation_cannot_carry_evidence_about_something_else():
    value = observe(evidence())[0].to_json() | {"target": "tiny"}
    with pytest.raises(LedgerError, match="something else"):
        Observation.from_json(value)


def test_digests_of_today_are_digests_or_disputed():
    assert Digests.from_json({"subject": "disputed"}).subject == "disputed"
    assert Digests.from_json(TODAY.to_json()) == TODAY
    with pytest.raises(LedgerError):
        Digests.from_json({"subject": "sha256:12"})
