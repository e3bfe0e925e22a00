"""Lint over many contracts; one that is broken never hides the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_falsify.contracts.lint.finding import Finding, Peers, Severity, Subject
from pytest_falsify.contracts.lint.rules import BROKEN, RULES, severities
from pytest_falsify.contracts.load import parse_contract
from pytest_falsify.contracts.loader import read
from pytest_falsify.contracts.normalise import normalise
from pytest_falsify.contracts.problems import ContractErrors
from pytest_falsify.contracts.validate import validate
from pytest_falsify.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from pytest_falsify.contracts.lint.sources import Sources
    from pytest_falsify.contracts.loader import Document
    from pytest_falsify.contracts.model import Contract
    from pytest_falsify.contracts.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class LintReport:
    """What lint saw and found; the findings are in the order of files and lines."""

    findings: tuple[Finding, ...]
    contracts: int
    left_alone: int

    @property
    def has_errors(self) -> bool:
        """Tell whether anything found is an error."""
        return any(each.severity is Severity.ERROR for each in self.findings)


def lint(
    paths: Iterable[Path],
    *,
    vocabulary: Vocabulary,
    sources: Sources,
    settings: Mapping[str, str] | None = None,
    statuses: Mapping[str, str] | None = None,
) -> LintReport:
    """Apply every rule to every contract.

    Args:
        paths: the YAML files; those that are not contracts are counted and left alone.
        vocabulary: what the contracts may name.
        sources: where cited files are looked up.
        settings: severities by rule id, where they differ from the rules' own.
        statuses: what the ledger supports, by falsifier id; None to judge no claimed status.

    Raises:
        FalsifyError: when the settings name an unknown rule or severity.
    """
    chosen = severities(settings or {})
    loaded, findings, left_alone = _loaded(paths, vocabulary)
    peers = _peers(contract for _, contract in loaded)
    for document, contract in loaded:
        subject = Subject(
            document=document,
            contract=contract,
            peers=peers,
            sources=sources,
            statuses=statuses,
            repeating=vocabulary.repeating,
        )
        findings += findings_of(subject)
    kept = (replace(each, severity=chosen[each.rule]) for each in findings)
    return LintReport(
        findings=tuple(
            sorted(
                (each for each in kept if each.severity is not Severity.OFF),
                key=lambda each: (str(each.path), each.line, each.rule, each.text),
            )
        ),
        contracts=len(loaded),
        left_alone=left_alone,
    )


def _loaded(
    paths: Iterable[Path], vocabulary: Vocabulary
) -> tuple[list[tuple[Document, Contract]], list[Finding], int]:
    """Return the contracts, what is wrong with those that are broken, and how many are none."""
    loaded: list[tuple[Document, Contract]] = []
    findings: list[Finding] = []
    left_alone = 0
    for path in sorted(set(paths)):
        try:
            document = parse_contract(read(path), path)
            if document is None:
                left_alone += 1
                continue
            validate(document, vocabulary)
            loaded.append((document, normalise(document, vocabulary)))
        except ContractError as error:
            findings += _broken(error, path)
    return loaded, findings, left_alone


def findings_of(subject: Subject) -> Iterator[Finding]:
    """Yield what the rules find in one contract, at their own severities."""
    for rule in RULES.values():
        for hit in rule.look(subject):
            yield Finding(
                rule=rule.id,
                path=subject.document.path,
                line=subject.document.line(hit.at),
                text=hit.text,
                severity=rule.severity,
            )


def _broken(error: ContractError, path: Path) -> Iterator[Finding]:
    problems = error.problems if isinstance(error, ContractErrors) else (error,)
    for problem in problems:
        hints = [each for each in (problem.expected, problem.remedy) if each]
        text = "; ".join((problem.what, *hints))
        yield Finding(rule=BROKEN.id, path=path, line=problem.line or 1, text=text)


def _peers(contracts: Iterable[Contract]) -> Peers:
    names: set[str] = set()
    falsifiers: dict[str, tuple[Path, int]] = {}
    for contract in contracts:
        names |= {contract.id, contract.path.stem}
        for falsifier in contract.falsifiers:
            falsifiers.setdefault(falsifier.id, (contract.path, falsifier.line))
    return Peers(names=frozenset(names), falsifiers=falsifiers)
