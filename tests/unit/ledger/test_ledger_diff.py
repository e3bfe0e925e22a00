"""What a reviewer sees of a change: regressions first, reasons in words, numbers that changed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
from ledger_samples import CAUGHT, OLD_ENTRY, OLD_SUBJECT, evidence, facts, observe

from pytest_falsify.ledger.diff import Kind, diff
from pytest_falsify.ledger.merge import fold
from pytest_falsify.report.ledger_diff import summary, to_github, to_json, to_markdown, to_text

GOLDEN = Path(__file__).parents[2] / "golden" / "ledger"
CONTRACT = "C-ATTN"


def record(falsifier, *arguments, **changes):
    return evidence(*arguments, falsifier=falsifier, **changes)


def ledger(before=None, /, entries=None, **records):
    known = entries or {f"FALSIFY-{name}": facts() for name in records}
    seen = [replace(each, contract=CONTRACT) for each in observe(*chain(*records.values()))]
    return fold(before, CONTRACT, known, seen)


def numbers(value):
    return {"guilty": [], "worst": {"ratio": 1.3, "rel_l2": value, "site": "0/0/attn_out"}}


def scene():
    live = {"faults": CAUGHT, "observed": numbers(0.0031)}
    base = ledger(
        SAME=[record("FALSIFY-SAME", **live)],
        FELL=[record("FALSIFY-FELL", **live)],
        OLD=[record("FALSIFY-OLD", **live)],
        GONE=[record("FALSIFY-GONE", **live)],
        ROSE=[record("FALSIFY-ROSE", **live)],
        MOVED=[record("FALSIFY-MOVED", **live)],
    )
    entries = {id_: facts() for id_ in base.blocks if id_ != "FALSIFY-GONE"}
    entries |= {"FALSIFY-OLD": facts(entry=OLD_ENTRY), "FALSIFY-FRESH": facts()}
    entries |= {"FALSIFY-BAD": facts()}
    reasons = ("attn_out is guilty: 12 | 3 times its noise\n<script>, worst at 0/0/attn_out",)
    worse = {"observed": numbers(0.21), "reasons": reasons, "on": "b"}
    head = ledger(
        base,
        entries,
        FELL=[record("FALSIFY-FELL", "refuted", **worse)],
        ROSE=[record("FALSIFY-ROSE", faults=CAUGHT, on="b")],
        MOVED=[
            record("FALSIFY-MOVED", **(live | {"observed": numbers(0.0044)}), subject=OLD_SUBJECT)
        ],
        FRESH=[record("FALSIFY-FRESH", "blocked", reasons=("no CUDA device",))],
        BAD=[record("FALSIFY-BAD", "refuted")],
    )
    return diff({CONTRACT: base}, {CONTRACT: head})


def test_kinds_come_in_the_order_of_a_reviewers_interest():
    assert [(each.kind, each.falsifier) for each in scene().changes] == [
        (Kind.REGRESSED, "FALSIFY-FELL"),
        (Kind.STALE, "FALSIFY-OLD"),
        (Kind.ORPHANED, "FALSIFY-GONE"),
        (Kind.NEW, "FALSIFY-BAD"),
        (Kind.NEW, "FALSIFY-FRESH"),
        (Kind.PROMOTED, "FALSIFY-ROSE"),
        (Kind.UPDATED, "FALSIFY-MOVED"),
    ]


def test_everything_is_counted_once():
    assert summary(scene()) == (
        "1 regressed, 1 stale, 1 orphaned, 2 new, 1 promoted, 1 updated, 1 unchanged"
    )


def test_the_numbers_that_changed_are_named_and_the_others_not():
    (moved,) = scene().of(Kind.UPDATED)
    assert [(n.target, n.name, n.before, n.after) for n in moved.numbers] == [
        ("teacher", "worst.rel_l2", 0.0031, 0.0044)
    ]


def test_a_second_witness_is_no_change_of_numbers():
    (rose,) = scene().of(Kind.PROMOTED)
    assert rose.numbers == ()


def test_nothing_changed_is_nothing():
    same = {CONTRACT: ledger(SAME=[record("FALSIFY-SAME")])}
    assert diff(same, same).changes == ()
    assert summary(diff(same, same)).endswith("1 unchanged")


@pytest.mark.parametrize(
    ("name", "render"),
    [
        ("diff.txt", to_text),
        ("diff.md", to_markdown),
        ("diff.json", to_json),
        (
            "diff.github",
            lambda found: to_github(found, {(CONTRACT, "FALSIFY-FELL"): ("contracts/a,b.yaml", 7)}),
        ),
    ],
)
def test_a_rendering_is_its_golden_file(name, render):
    path, text = GOLDEN / name, render(scene())
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


def many(count):
    names = [f"N{number:04d}" for number in range(count)]
    base = ledger(**{name: [record(f"FALSIFY-{name}")] for name in names})
    refuted = {name: [record(f"FALSIFY-{name}", "refuted", on="b")] for name in names}
    return diff({CONTRACT: base}, {CONTRACT: ledger(base, **refuted)})


def test_a_comment_keeps_below_the_limit_and_counts_what_it_leaves_out():
    found = many(600)
    text = to_markdown(found)
    shown = text.count("| `FALSIFY-")
    assert len(text.encode()) <= 60_000
    assert 0 < shown < 600
    assert f"and {600 - shown} more" in text
    assert len(to_markdown(found, limit=500).encode()) <= 500


def test_nine_annotations_at_most_and_a_count():
    lines = to_github(many(30)).splitlines()
    assert sum(line.startswith("::error") for line in lines) == 9
    assert "::notice title=falsify::and 21 more changes" in lines


def test_no_reason_can_begin_a_workflow_command_or_end_a_table_cell():
    for line in to_github(scene()).splitlines():
        assert line.startswith(("::error ", "::warning ", "::notice ", "ledger: "))
    for line in to_markdown(scene()).splitlines():
        assert "<script>" not in line
        assert not line.startswith("|") or line.replace("\\|", "").count("|") == 5


def test_json_says_the_same():
    value = json.loads(to_json(scene()))
    assert value["counts"]["regressed"] == 1
    assert value["changes"][0]["falsifier"] == "FALSIFY-FELL"
