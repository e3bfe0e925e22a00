"""Evidence is a set: the promises of status, merge, prune and fold, for any evidence."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from ledger_samples import (
    CONTRACT,
    FALSIFIER,
    blocks,
    discharges,
    facts,
    ledgers,
    observe,
    record_sets,
    records,
    renamed,
    todays,
)

from pytest_falsify.ledger.block import FalsifierBlock
from pytest_falsify.ledger.document import parse, to_text
from pytest_falsify.ledger.evidence import Outcome, Retraction
from pytest_falsify.ledger.merge import fold, merge, merge_blocks, merge_evidence, prune
from pytest_falsify.ledger.status import Status, judge, judge_anew

WRONG = Retraction(who="grace", why="the oracle was wrong")
grounds = st.builds(
    FalsifierBlock, entry=st.just(facts().entry), today=todays, discharge=discharges
)


def rank(block) -> int:
    return judge(block)[0].rank


def on(ground, evidence):
    return replace(ground, evidence=merge_evidence(evidence))


@given(ledgers(), ledgers())
def test_merge_is_commutative(one, other):
    assert merge(one, other) == merge(other, one)


@given(ledgers(), ledgers(), ledgers())
def test_merge_is_associative(one, two, three):
    assert merge(merge(one, two), three) == merge(one, merge(two, three))


@given(ledgers(), ledgers())
def test_merge_is_idempotent(one, other):
    merged = merge(one, other)
    assert merge(one, one) == one
    assert merge(merged, other) == merged


@given(blocks(), records(outcomes=st.just(Outcome.REFUTED)))
def test_adding_a_refutation_never_raises_a_status(block, refutation):
    unknown = refutation.id not in {each.id for each in block.evidence}
    if unknown:
        assert rank(on(block, (*block.evidence, refutation))) <= rank(block)


@given(blocks())
def test_dropping_anything_but_a_refutation_never_raises_a_status(block):
    for dropped in block.evidence:
        if dropped.outcome is not Outcome.REFUTED:
            left = tuple(each for each in block.evidence if each is not dropped)
            assert rank(replace(block, evidence=left)) <= rank(block)


@given(blocks(), blocks())
def test_a_merge_never_hides_a_refutation(one, other):
    merged = merge_blocks(one, other)
    for side in (one, other):
        if judge(side)[0] is Status.FALSIFIED:
            retracted = {each.id for each in merged.evidence if each.retracted}
            refuted = {each.id for each in side.evidence if side.counts_against(each)}
            assert judge(merged)[0] is Status.FALSIFIED or refuted <= retracted


@given(blocks())
def test_a_remembered_judgement_is_the_plain_one(block):
    assert judge(block) == judge_anew(block)


@given(blocks(), blocks())
def test_blocks_that_are_alike_are_judged_alike(one, other):
    for each in (other, renamed(one, "FALSIFY-OTHER")):
        if each.likeness == one.likeness:
            assert judge_anew(each) == judge_anew(one)


@given(blocks())
def test_pruning_changes_neither_status_nor_reason(block):
    assert judge(prune(block)) == judge(block)


@given(blocks())
def test_pruning_twice_is_pruning_once(block):
    assert prune(prune(block)) == prune(block)


@given(blocks())
def test_pruning_keeps_every_fresh_refutation(block):
    fresh = {each for each in block.evidence if block.counts_against(each)}
    assert fresh <= set(prune(block).evidence)


@given(grounds, record_sets, record_sets)
def test_pruning_commutes_with_merge(ground, one, other):
    pruned_first = merge_blocks(prune(on(ground, one)), prune(on(ground, other)))
    assert prune(pruned_first) == prune(merge_blocks(on(ground, one), on(ground, other)))


@given(grounds, record_sets, record_sets, st.data())
def test_pruning_commutes_with_merge_when_one_side_retracted(ground, one, other, data):
    refuted = [each for each in one if each.outcome is Outcome.REFUTED]
    kept = data.draw(st.lists(st.sampled_from(refuted), max_size=2)) if refuted else []
    other += tuple(replace(each, retracted=None if each.retracted else WRONG) for each in kept)
    pruned_first = merge_blocks(prune(on(ground, one)), prune(on(ground, other)))
    assert prune(pruned_first) == prune(merge_blocks(on(ground, one), on(ground, other)))


@given(ledgers())
def test_what_is_written_is_what_is_read(ledger):
    assert parse(to_text(ledger)) == ledger


@given(record_sets, record_sets)
def test_a_second_identical_run_changes_no_byte(before, seen):
    entries = {FALSIFIER: facts()}
    on_file = fold(None, CONTRACT, entries, observe(*before))
    first = fold(on_file, CONTRACT, entries, observe(*seen))
    assert to_text(fold(first, CONTRACT, entries, observe(*seen))) == to_text(first)


@given(record_sets, st.randoms())
def test_the_order_of_observations_does_not_matter(seen, random):
    entries = {FALSIFIER: facts()}
    shuffled = list(seen)
    random.shuffle(shuffled)
    assert fold(None, CONTRACT, entries, observe(*shuffled)) == fold(
        None, CONTRACT, entries, observe(*seen)
    )


@given(record_sets, record_sets)
def test_no_run_loses_a_refutation_that_still_counts(on_file, seen):
    ledger = fold(None, CONTRACT, {FALSIFIER: facts()}, observe(*on_file))
    after = fold(ledger, CONTRACT, {FALSIFIER: facts()}, observe(*seen)).blocks[FALSIFIER]
    before = {e for e in ledger.blocks[FALSIFIER].evidence if e.outcome is Outcome.REFUTED}
    kept = {each.id for each in after.evidence}
    assert {each.id for each in before if after.counts_against(each)} <= kept
