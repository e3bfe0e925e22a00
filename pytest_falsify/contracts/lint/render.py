"""A lint report as text, as JSON, or as annotations of a GitHub workflow."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from pytest_falsify.canonical import canonical_text
from pytest_falsify.contracts.lint.finding import Severity
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_falsify.contracts.lint.finding import Finding
    from pytest_falsify.contracts.lint.run import LintReport

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def as_text(report: LintReport, root: Path) -> str:
    """Return a line for each finding and a line of totals."""
    lines = [
        f"{_place(each, root)}: {each.severity.value} {each.rule}: {each.text}"
        for each in report.findings
    ]
    return "\n".join((*lines, _totals(report))) + "\n"


def as_json(report: LintReport, root: Path) -> str:
    """Return the report as a JSON object with sorted keys."""
    return canonical_text(
        {
            "contracts": report.contracts,
            "left_alone": report.left_alone,
            "findings": [
                {
                    "path": _relative(each, root),
                    "line": each.line,
                    "rule": each.rule,
                    "severity": each.severity.value,
                    "text": each.text,
                }
                for each in report.findings
            ],
        }
    )


def as_github(report: LintReport, root: Path) -> str:
    """Return one workflow command for each finding, and the totals.

    The escapes are those of the workflow commands' own documentation.
    """
    lines = [
        f"::{_COMMANDS[each.severity]} file={_property(_relative(each, root))},line={each.line},"
        f"title={_property(each.rule)}::{_data(each.text)}"
        for each in report.findings
    ]
    return "\n".join((*lines, _totals(report))) + "\n"


def _totals(report: LintReport) -> str:
    counts = Counter(each.severity for each in report.findings)
    parts = [number_of(counts[each], each.value) for each in _COMMANDS]
    read, left_alone = number_of(report.contracts, "contract"), number_of(report.left_alone, "file")
    return f"{', '.join(parts)}; {read} read, {left_alone} left alone"


def _place(finding: Finding, root: Path) -> str:
    return f"{_relative(finding, root)}:{finding.line}"


def _relative(finding: Finding, root: Path) -> str:
    return os.path.relpath(finding.path, root).replace(os.sep, "/")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
