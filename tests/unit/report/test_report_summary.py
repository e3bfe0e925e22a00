"""A summary is short where falsifiers stand alike, and hides none that stands otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.ledger.status import Status
from pytest_falsify.report.summary import summary_lines

HELD = (Status.PARTIAL, "held on tiny")
REFUTED = (Status.FALSIFIED, "refuted on tiny: worse")


@dataclass(frozen=True)
class Folded:
    """A contract after a run, with statuses made by hand."""

    statuses: dict[str, tuple[Status, str]]
    id: str = "C-A"
    ledger_name: str = "evidence/C-A.json"
    became: str = "unchanged"

    @property
    def contract(self):
        falsifiers = tuple(SimpleNamespace(id=each) for each in self.statuses)
        return SimpleNamespace(id=self.id, falsifiers=falsifiers)

    def status(self, falsifier):
        return self.statuses[falsifier]


def shown(*statuses, is_full=False, **options):
    ids = {f"FALSIFY-A-{number:03d}": each for number, each in enumerate(statuses, start=1)}
    lines = list(summary_lines([Folded(ids)], is_full=is_full, **options))
    return [text for text, _ in lines]


def test_falsifiers_that_stand_alike_share_a_line():
    assert shown(HELD, HELD, HELD, REFUTED, HELD, HELD) == [
        "C-A  ledger: evidence/C-A.json, unchanged",
        "  FALSIFY-A-001..003  PARTIAL     held on tiny",
        "  FALSIFY-A-004       FALSIFIED   refuted on tiny: worse",
        "  FALSIFY-A-005       PARTIAL     held on tiny",
        "  FALSIFY-A-006       PARTIAL     held on tiny",
        "6 falsifiers: 1 FALSIFIED, 5 PARTIAL",
    ]


def test_every_falsifier_has_its_own_line_when_asked():
    assert shown(HELD, HELD, HELD, is_full=True)[1:4] == [
        f"  FALSIFY-A-00{number}  PARTIAL     held on tiny" for number in (1, 2, 3)
    ]


def test_every_refutation_has_its_own_line():
    assert shown(REFUTED, REFUTED, REFUTED)[1:4] == [
        f"  FALSIFY-A-00{number}  FALSIFIED   refuted on tiny: worse" for number in (1, 2, 3)
    ]


def test_numbers_that_do_not_follow_share_no_line():
    ids = ["FALSIFY-1", "FALSIFY-2", "FALSIFY-4", "FALSIFY-5", "FALSIFY-06", "OTHER-7", "OTHER"]
    lines = list(summary_lines([Folded(dict.fromkeys(ids, HELD))], is_full=False))
    assert ids == [text.split()[0] for text, _ in lines[1:-1]]


def test_the_worst_are_shown_where_not_all_are():
    assert shown(HELD, HELD, HELD, REFUTED, HELD, limit=1)[1:] == [
        "  FALSIFY-A-004  FALSIFIED   refuted on tiny: worse",
        "  ... 4 more with -v",
        "5 falsifiers: 1 FALSIFIED, 4 PARTIAL",
    ]


def test_the_same_ids_in_two_contracts_are_told_apart():
    both = [Folded({"FALSIFY-1": HELD}, id=each) for each in ("C-A", "C-B")]
    lines = [text for text, _ in summary_lines(both, is_full=False, limit=1)]
    assert lines[-2:] == ["  ... 1 more with -v", "2 falsifiers: 2 PARTIAL"]


@given(st.lists(st.sampled_from([HELD, REFUTED, (Status.PARTIAL, "held on other")]), max_size=12))
def test_no_falsifier_is_lost_and_none_is_told_to_stand_otherwise(statuses):
    told = []
    for line in shown(*statuses, limit=None)[1:-1] if statuses else []:
        name, status, because = line.split(maxsplit=2)
        first, _, last = name.removeprefix("FALSIFY-A-").partition("..")
        told += [(Status(status), because)] * (int(last or first) - int(first) + 1)
    assert statuses == told
