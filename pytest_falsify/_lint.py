"""What lint finds in the contracts of a session, as one warning a contract."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pytest_falsify._items import CONTRACTS
from pytest_falsify._loading import vocabulary
from pytest_falsify._places import Places
from pytest_falsify._warnings import FalsifyWarning
from pytest_falsify.contracts.lint.finding import Severity
from pytest_falsify.contracts.lint.run import lint
from pytest_falsify.contracts.lint.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_falsify.contracts.lint.finding import Finding
    from pytest_falsify.contracts.model import Contract

WEIGHTY = (Severity.ERROR, Severity.WARNING)


class LintWarnings:
    """Warns after collection. A dry run is a listing and stays fast: it does not ask."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Warn once for each contract in which lint finds errors or warnings."""
        contracts = self.config.stash.get(CONTRACTS, [])
        for text in self._texts(contracts):
            try:
                session.warn(FalsifyWarning(text))
            except FalsifyWarning as error:
                raise pytest.UsageError(str(error)) from None

    def _texts(self, contracts: Sequence[Contract]) -> Iterator[str]:
        report = lint(
            [each.path for each in contracts],
            vocabulary=vocabulary(),
            sources=Sources(Places.of(self.config).root),
        )
        counts: dict[str, Counter[Severity]] = {}
        for each in report.findings:
            counts.setdefault(self._shown(each), Counter())[each.severity] += 1
        for path, found in counts.items():
            words = [f"{found[each]} {each.value}s" for each in WEIGHTY if found[each]]
            if words:
                yield f"{path}: lint finds {' and '.join(words)}: pytest-falsify lint {path}"

    def _shown(self, finding: Finding) -> str:
        return os.path.relpath(finding.path, self.config.invocation_params.dir)
