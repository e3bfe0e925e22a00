import json
from collections import Counter
from pathlib import Path

import pytest

from pytest_falsify.contracts.lint.baseline import beyond, read_baseline, write_baseline
from pytest_falsify.contracts.lint.finding import Finding, Severity
from pytest_falsify.contracts.lint.render import as_github, as_json, as_text
from pytest_falsify.contracts.lint.run import LintReport
from pytest_falsify.errors import FalsifyError

ROOT = Path("/project")


def finding(line=3, text="it says `All 7`, line 3", rule="wrong-count", path="contracts/a.yaml"):
    return Finding(rule=rule, path=ROOT / path, line=line, text=text, severity=Severity.ERROR)


REPORT = LintReport(
    findings=(
        finding(),
        Finding(
            rule="unknown-key",
            path=ROOT / "contracts" / "b, c.yaml",
            line=1,
            text="50 % of\nit",
            severity=Severity.NOTE,
        ),
    ),
    contracts=1,
    left_alone=4,
)


def test_text_is_a_line_each_and_totals():
    assert as_text(REPORT, ROOT) == (
        "contracts/a.yaml:3: error wrong-count: it says `All 7`, line 3\n"
        "contracts/b, c.yaml:1: note unknown-key: 50 % of\nit\n"
        "1 error, 0 warnings, 1 note; 1 contract read, 4 files left alone\n"
    )


def test_github_annotations_are_escaped():
    assert as_github(REPORT, ROOT).splitlines()[:2] == [
        "::error file=contracts/a.yaml,line=3,title=wrong-count::it says `All 7`, line 3",
        "::notice file=contracts/b%2C c.yaml,line=1,title=unknown-key::50 %25 of%0Ait",
    ]


def test_json_holds_everything():
    assert json.loads(as_json(REPORT, ROOT))["findings"][0] == {
        "path": "contracts/a.yaml",
        "line": 3,
        "rule": "wrong-count",
        "severity": "error",
        "text": "it says `All 7`, line 3",
    }


def test_a_baseline_accepts_what_was_there_and_nothing_else():
    old = [finding(), finding(line=9), finding(text="other")]
    accepted = read_baseline(write_baseline(old, ROOT), ROOT / "baseline.json")
    assert beyond(old, accepted, ROOT) == ((), 0)
    third = finding(line=20)
    new, vanished = beyond([*old, third], accepted, ROOT)
    assert (len(new), vanished) == (1, 0)
    assert beyond(old[:1], accepted, ROOT) == ((), 2)


def test_a_baseline_does_not_depend_on_line_numbers():
    accepted = read_baseline(write_baseline([finding()], ROOT), ROOT)
    moved = finding(line=40, text="it says `All 7`, line 40")
    assert beyond([moved], accepted, ROOT) == ((), 0)


def test_a_baseline_is_the_same_text_for_any_order():
    findings = [finding(), finding(rule="missing-id"), finding(path="b.yaml")]
    assert write_baseline(findings, ROOT) == write_baseline(findings[::-1], ROOT)


def test_an_empty_baseline_accepts_nothing():
    assert read_baseline(write_baseline([], ROOT), ROOT) == Counter()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2, "findings": {}}', '{"version": 1, "findings": 3}']
)
def test_what_is_no_baseline_is_refused(text):
    with pytest.raises(FalsifyError, match="not a lint baseline"):
        read_baseline(text, ROOT / "baseline.json")
