"""The baseline: findings that were there before, so that a tree can only get better.

A finding is recognised by its file, its rule and its text, never by a line number: moving a
paragraph does not make an old finding new.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import TYPE_CHECKING

from pytest_falsify.canonical import canonical_text, parse_json
from pytest_falsify.errors import FalsifyError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_falsify.contracts.lint.finding import Finding

Key = tuple[str, str, str]
_VERSION = 1
_LINE = re.compile(r"\bline \d+")


def key_of(finding: Finding, root: Path) -> Key:
    """Return what a finding is recognised by."""
    path = os.path.relpath(finding.path, root).replace(os.sep, "/")
    return path, finding.rule, _LINE.sub("line", finding.text)


def write_baseline(findings: Iterable[Finding], root: Path) -> str:
    """Return the text of a baseline file that accepts these findings."""
    tree: dict[str, dict[str, dict[str, int]]] = {}
    for (path, rule, text), count in Counter(key_of(each, root) for each in findings).items():
        tree.setdefault(path, {}).setdefault(rule, {})[text] = count
    return canonical_text({"version": _VERSION, "findings": tree})


def read_baseline(text: str, path: Path) -> Counter[Key]:
    """Return how often each finding is accepted.

    Raises:
        FalsifyError: when the text is not a baseline.
    """
    try:
        data = parse_json(text)
        if data["version"] != _VERSION:
            raise ValueError  # noqa: TRY301 - one message for every way of being no baseline
        return Counter(
            {
                (file, rule, words): int(count)
                for file, rules in data["findings"].items()
                for rule, found in rules.items()
                for words, count in found.items()
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = "not a lint baseline"
        raise FalsifyError(
            msg,
            path=path,
            expected=f"what `pytest-falsify lint --write-baseline` wrote, version {_VERSION}",
            remedy="write it anew",
        ) from error


def beyond(
    findings: Iterable[Finding], accepted: Counter[Key], root: Path
) -> tuple[tuple[Finding, ...], int]:
    """Return the findings that the baseline does not accept, and how many it accepts in vain.

    The second number is the progress: the baseline can be written anew without those.
    """
    left = Counter(accepted)
    new = []
    for finding in findings:
        key = key_of(finding, root)
        if left[key] > 0:
            left[key] -= 1
        else:
            new.append(finding)
    return tuple(new), sum(left.values())
