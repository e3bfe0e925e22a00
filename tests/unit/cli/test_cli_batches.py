"""trace of two reports of batches: whether the second system differs more often than the first."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pytest_falsify.cli import main

WITHIN, BEYOND, UNDECIDED = 0, 1, 2


def run(*arguments, status):
    result = CliRunner().invoke(main, ["trace", *map(str, arguments)])
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture
def report(tmp_path):
    """Write a report: which of some samples differ."""

    def write(name, differing, *, total=400, first=0, **more):
        results = [
            {"sample_id": f"s{n}", "exact_match": n not in differing}
            for n in range(first, first + total)
        ]
        body = {"schema_version": 2, "total_samples": total, "results": results, **more}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(body))
        return path

    return write


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        (range(5), range(5), WITHIN),
        (range(5), range(3), WITHIN),  # nothing got worse
        (range(5), range(1, 7), UNDECIDED),
        (range(5), range(20), BEYOND),
        (range(20), range(40), BEYOND),
        (range(20), range(20, 40), UNDECIDED),  # as many others: chance explains it
    ],
)
def test_without_a_limit_a_system_is_held_against_the_other(report, before, after, status):
    output = run(report("a", before), report("b", after), status=status)
    assert f"{len(after)} of 400 (" in output


@pytest.mark.parametrize(
    ("after", "limit", "status"),
    [
        (range(5), "0.05", WITHIN),
        (range(1, 7), "0.05", WITHIN),
        (range(1, 7), "0.01", UNDECIDED),
        (range(20), "0.2", BEYOND),  # within the limit, and yet worse by more than chance
    ],
)
def test_a_limit_is_kept_by_the_whole_interval_and_no_worse_a_system(report, after, limit, status):
    run(report("a", range(5)), report("b", after), "--max-rate", limit, status=status)


def test_what_got_worse_is_told_with_its_chance_and_by_name(report):
    output = run(report("a", range(2)), report("b", range(1, 12)), status=BEYOND)
    assert "10 where the baseline's do not, 1 the other way round: more than chance (p = " in output
    assert "the first of them: s2, s3, s4, s5, s6, ..." in output
    body = json.loads(run(report("a", ()), report("b", ()), "--format", "json", status=WITHIN))
    assert body["leg"] == "none"
    assert body["reason"].startswith("0 of 400 (0, 95% interval 0 to ")


def test_only_samples_of_both_are_compared_and_that_is_said(report):
    output = run(report("a", ()), report("b", (), first=100), status=WITHIN)
    assert "0 of 300 (" in output
    assert "200 samples stand in one report alone and are left out" in output


def test_reports_without_a_common_sample_are_refused(report):
    output = run(report("a", ()), report("b", (), first=400), status=UNDECIDED)
    assert "it has no sample in common with" in output
    run(report("a", (), total=0), report("b", (), total=0), status=UNDECIDED)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"schema_version": 3}, "the report is of version 3"),
        ({"total_samples": 7}, "tells of 3 samples and counts 7"),
        ({"results": [{"sample_id": "s0"}]}, "KeyError: 'exact_match'"),
        ({"results": [{"sample_id": "s0", "exact_match": True}] * 3}, "tells of 1 sample "),
        ({"results": "none"}, "it is no report of a batch"),
    ],
)
def test_a_report_that_is_not_whole_is_refused(report, change, what):
    good, bad = report("a", (), total=3), report("b", (), total=3, **change)
    assert what in run(good, bad, status=UNDECIDED)
    assert what in run(bad, good, status=UNDECIDED)
