"""Several runs, three sides of a merge, explanations, signatures and attestations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from ledger_samples import (
    CAUGHT,
    CONTRACT,
    FALSIFIER,
    OLD_ENTRY,
    OLD_SUBJECT,
    SUBJECT,
    block,
    evidence,
    facts,
    ledgers,
    observe,
)

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.document import parse, to_text
from pytest_falsify.ledger.intoto import statements
from pytest_falsify.ledger.journal import Run
from pytest_falsify.ledger.merge import fold, merge, retract
from pytest_falsify.ledger.runs import usable
from pytest_falsify.ledger.signing import check_signature, sign, wrong_signatures
from pytest_falsify.ledger.status import Status, judge
from pytest_falsify.ledger.textconv import textconv
from pytest_falsify.ledger.three_way import merge_driver, merge_three
from pytest_falsify.ledger.why import why

GOLDEN = Path(__file__).parents[2] / "golden" / "ledger"
LIVE, SECOND = evidence(faults=CAUGHT), evidence(faults=CAUGHT, on="b")


def run(*records, complete=True):
    kept = tuple(
        {"kind": "observation", "observation": each.to_json()} for each in observe(*records)
    )
    trailer = {"kind": "trailer", "complete": complete, "counts": {}}
    return Run(path=Path("run.jsonl"), header={"kind": "header"}, records=kept, trailer=trailer)


def on_file(*records, before=None, **changes):
    return fold(before, CONTRACT, {FALSIFIER: facts(**changes)}, observe(*records))


def status(ledger):
    return judge(ledger.blocks[FALSIFIER])[0]


def merged(*runs):
    return fold(None, CONTRACT, {FALSIFIER: facts()}, usable(runs))


def test_two_machines_records_discharge_together_in_any_order():
    blocked = evidence("blocked", on="c", subject=None, oracle=None, inputs=None)
    runs = [run(LIVE), run(SECOND), run(blocked)]
    texts = {to_text(merged(*order)) for order in permutations(runs)}
    assert len(texts) == 1
    assert status(merged(*runs)) is Status.DISCHARGED


@pytest.mark.parametrize("trailer", [None, {"complete": False}])
def test_an_incomplete_run_promotes_nothing(trailer):
    assert status(merged(replace(run(LIVE), trailer=trailer))) is Status.UNTRIED


def test_what_an_incomplete_run_refuted_is_not_lost():
    ledger = merged(run(LIVE), run(evidence("refuted", on="b"), complete=False))
    assert status(ledger) is Status.FALSIFIED


@given(ledgers())
def test_a_side_that_changed_nothing_takes_the_other_side(ledger):
    base = replace(ledger, blocks={})
    assert merge_three(base, ledger, base) == ledger
    assert merge_three(base, base, ledger) == ledger
    assert merge_three(ledger, ledger, ledger) == ledger


@given(ledgers(), ledgers(), ledgers())
def test_a_three_way_merge_does_not_care_which_side_is_ours(base, one, other):
    assert merge_three(base, one, other) == merge_three(base, other, one)


def test_both_sides_evidence_counts_after_a_three_way_merge():
    base = on_file()
    both = merge_three(base, on_file(LIVE), on_file(SECOND))
    assert status(both) is Status.DISCHARGED


def test_what_one_side_superseded_does_not_come_back():
    base = on_file(evidence("refuted", subject=OLD_SUBJECT))
    mended = on_file(LIVE, before=base)
    noted = on_file(evidence(target="tiny", source="algorithm"), before=base)
    both = merge_three(base, mended, noted)
    assert status(both) is Status.FUNCTIONAL
    assert {each.digests.subject for each in both.blocks[FALSIFIER].evidence} == {SUBJECT}


def test_a_target_that_one_side_dropped_does_not_come_back():
    tiny = evidence(target="tiny", source="algorithm")
    base = on_file(LIVE)
    both = merge_three(base, on_file(before=base, targets=("tiny",)), on_file(tiny, before=base))
    assert status(both) is Status.PARTIAL
    assert {each.target for each in both.blocks[FALSIFIER].evidence} == {"tiny"}


def test_sides_that_changed_the_same_digest_dispute_it():
    base = on_file(evidence(subject=OLD_SUBJECT, oracle=None))
    ours, theirs = on_file(LIVE, before=base), on_file(evidence(subject=OLD_SUBJECT), before=base)
    both = merge_three(base, ours, theirs)
    assert status(both) is Status.STALE
    assert "disagree about the subject" in judge(both.blocks[FALSIFIER])[1]


def test_the_merge_driver_writes_what_can_be_read():
    base, ours, theirs = (to_text(each) for each in (on_file(), on_file(LIVE), on_file(SECOND)))
    assert status(parse(merge_driver(base, ours, theirs))) is Status.DISCHARGED
    assert status(parse(merge_driver("", ours, theirs))) is Status.DISCHARGED
    with pytest.raises(LedgerError):
        merge_driver(base, ours, "<<<<<<< ours\n")


def test_ledgers_of_two_contracts_do_not_merge():
    other = replace(on_file(), contract="C-OTHER")
    with pytest.raises(LedgerError):
        merge(on_file(), other)
    with pytest.raises(LedgerError):
        merge_three(on_file(), on_file(), other)


def test_textconv_tells_a_ledger_in_few_lines_and_leaves_the_rest():
    text = textconv(to_text(on_file(LIVE)))
    assert text.splitlines()[1].startswith(f"{FALSIFIER}: FUNCTIONAL: held live on teacher")
    assert len(text.splitlines()) == 3
    assert textconv("<<<<<<< ours\n") == "<<<<<<< ours\n"


def scenes():
    refuted = on_file(LIVE, evidence("refuted", on="b"))
    yield "untried", on_file()
    yield "blocked", on_file(evidence("blocked", reasons=("no CUDA device",)))
    yield "functional", on_file(LIVE)
    yield "discharged", on_file(LIVE, SECOND)
    yield "falsified", refuted
    yield "stale", on_file(before=on_file(LIVE), entry=OLD_ENTRY)
    wrong = evidence("refuted", on="b").id
    yield "retracted", retract(refuted, FALSIFIER, wrong, who="ada", why="bad memory")


def test_why_explains_each_status_and_says_what_would_raise_it():
    pages = [
        f"== {name}\n{why(FALSIFIER, ledger.blocks[FALSIFIER], targets=('teacher', 'tiny'))}"
        for name, ledger in scenes()
    ]
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / "why.txt").write_text("\n".join(pages))
    assert (GOLDEN / "why.txt").read_text() == "\n".join(pages)


def test_why_names_each_caveat():
    observed = {"caveats": ["a part of a prompt came from the server's cache"]}

    page = why(FALSIFIER, block(evidence(faults=CAUGHT, observed=observed)))

    assert "      caveat: a part of a prompt came from the server's cache\n" in page
    assert "to raise it:\n  add a run without caveats\n" in page


@pytest.fixture
def key(tmp_path):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    path = tmp_path / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
    (tmp_path / "allowed").write_text(f"ada {path.with_suffix('.pub').read_text()}")
    return path


def test_a_signature_holds_for_what_was_signed_and_nothing_else(key):
    allowed = key.parent / "allowed"
    signed = sign(LIVE, key=key, signer="ada")
    check_signature(signed, allowed_signers=allowed)
    for forged in (
        replace(SECOND, signature=signed.signature),
        replace(signed, observed={"rel_l2": 0.0}),
        replace(signed, signature=replace(signed.signature, signer="bob")),
        LIVE,
    ):
        with pytest.raises(LedgerError):
            check_signature(forged, allowed_signers=allowed)


def test_forged_signatures_are_found_in_ledgers(key):
    allowed = key.parent / "allowed"
    signed = sign(LIVE, key=key, signer="ada")
    forged = replace(SECOND, signature=signed.signature)
    assert list(wrong_signatures({CONTRACT: on_file(signed)}, allowed)) == []
    (wrong,) = wrong_signatures({CONTRACT: on_file(signed, forged)}, allowed)
    assert f"signature of ada on evidence of {FALSIFIER} on {SECOND.target} does not" in str(wrong)


def test_a_key_that_is_not_there_cannot_sign(tmp_path):
    with pytest.raises(LedgerError, match="could not be signed"):
        sign(LIVE, key=tmp_path / "none", signer="ada")


def test_a_statement_is_about_one_subject_and_fails_when_anything_is_refuted():
    ledger = on_file(LIVE, evidence("refuted", on="b"), evidence(target="tiny", source="algorithm"))
    (statement,) = statements(ledger)
    assert statement["subject"][0]["digest"] == {"sha256": SUBJECT.removeprefix("sha256:")}
    assert statement["predicate"]["result"] == "FAILED"
    assert statement["predicate"]["failedTests"] == [f"{FALSIFIER}[teacher]"]
    assert statement["predicate"]["passedTests"] == [f"{FALSIFIER}[tiny]"]
    assert json.loads(json.dumps(statement)) == statement


def test_nothing_stale_or_undecided_is_attested():
    assert statements(on_file(before=on_file(LIVE), entry=OLD_ENTRY)) == ()
    assert statements(on_file(evidence("blocked"))) == ()
