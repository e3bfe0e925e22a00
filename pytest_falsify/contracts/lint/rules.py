"""All rules by id, and the severities that a project gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.contracts.lint import (
    claims,
    coverage,
    demands,
    drift,
    identity,
    numbers,
    references,
)
from pytest_falsify.contracts.lint.finding import Rule, Severity
from pytest_falsify.contracts.problems import nearest, one_of
from pytest_falsify.errors import FalsifyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_falsify.contracts.lint.finding import Hit, Subject


def _nothing(_subject: Subject) -> Iterator[Hit]:
    yield from ()


BROKEN = Rule(
    id="broken-contract",
    reason="A contract that cannot be read is not tried at all.",
    severity=Severity.ERROR,
    look=_nothing,
)
RULES: Mapping[str, Rule] = {
    rule.id: rule
    for family in (
        (BROKEN,),
        identity.RULES,
        references.RULES,
        coverage.RULES,
        drift.RULES,
        numbers.RULES,
        claims.RULES,
        demands.RULES,
    )
    for rule in family
}


def severities(settings: Mapping[str, str]) -> Mapping[str, Severity]:
    """Return the severity of every rule under a project's settings.

    Args:
        settings: rule id to ``error``, ``warning``, ``note`` or ``off``, as in the table
            ``[tool.pytest-falsify.lint]`` of ``pyproject.toml``.

    Raises:
        FalsifyError: when a rule or a severity is unknown.
    """
    words = [severity.value for severity in Severity]
    chosen = {rule.id: rule.severity for rule in RULES.values()}
    for name, word in settings.items():
        if name not in RULES:
            msg = f"unknown lint rule `{name}`"
            raise FalsifyError(msg, expected=one_of(RULES), remedy=nearest(name, RULES))
        if word not in words:
            msg = f"`{word}` is not a severity for `{name}`"
            raise FalsifyError(msg, expected=one_of(words), remedy=nearest(word, words))
        chosen[name] = Severity(word)
    return chosen
