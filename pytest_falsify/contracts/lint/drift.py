"""Rules about files, functions and commands that a contract names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.contracts.entries import entries
from pytest_falsify.contracts.lint.definitions import LANGUAGES
from pytest_falsify.contracts.lint.finding import Hit, Rule, Severity, Subject
from pytest_falsify.contracts.lint.sources import Citation, cited
from pytest_falsify.contracts.normalise import cited_in
from pytest_falsify.contracts.shell_words import StringKind, judge_test
from pytest_falsify.contracts.texts import TEST, first_text, texts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_falsify.contracts.problems import Steps


def _citations(subject: Subject) -> Iterator[tuple[Steps, Citation]]:
    """Yield every file that a falsifier, its test or a harness names, with where it is named."""
    for entry in entries(subject.document.data):
        for key, text in cited_in(entry.body):
            if citation := cited(text):
                yield (*entry.at, key), citation
        if citation := _node(entry.body):
            yield (*entry.at, "test"), citation
    harnesses: Any = subject.document.data.get("kani_harnesses")
    for position, body in enumerate(harnesses if isinstance(harnesses, list) else ()):
        for text in texts(body.get("location")) if isinstance(body, dict) else ():
            if citation := cited(text):
                yield ("kani_harnesses", position, "location"), citation


def _node(body: Any) -> Citation | None:
    test = first_text(body, TEST)
    return cited(test) if judge_test(test).kind is StringKind.NODE else None


def _found(subject: Subject) -> Iterator[tuple[Steps, Citation, Path]]:
    for at, citation in _citations(subject):
        path = subject.sources.find(citation.file, subject.document.path)
        if path is not None:
            yield at, citation, path


def _missing_file(subject: Subject) -> Iterator[Hit]:
    for at, citation in _citations(subject):
        if subject.sources.find(citation.file, subject.document.path) is None:
            yield Hit(at=at, text=f"the file `{citation.file}` does not exist")


def _missing_function(subject: Subject) -> Iterator[Hit]:
    for at, citation, path in _found(subject):
        known = subject.sources.definitions(path)
        for name in citation.names if known is not None else ():
            if known is not None and name not in known:
                yield Hit(at=at, text=f"`{citation.file}` defines no `{name}`")


def _unread_source(subject: Subject) -> Iterator[Hit]:
    unread = {
        citation.file: at
        for at, citation, path in _found(subject)
        if citation.names and path.suffix in LANGUAGES and subject.sources.definitions(path) is None
    }
    for file, at in unread.items():
        text = f"the names cited from `{file}` were not looked up: no parser could read it"
        yield Hit(at=at, text=f"{text} (pip install 'pytest-falsify[lint]')")


def _unrunnable(subject: Subject) -> Iterator[Hit]:
    for entry in entries(subject.document.data):
        test = first_text(entry.body, TEST)
        if not test or "check" in entry.body:
            continue
        judged = judge_test(test)
        if judged.why:
            key = next(key for key in TEST if entry.body.get(key))
            yield Hit(at=(*entry.at, key), text=f"`{key}` cannot be run: {judged.why}")


def _uncollected(subject: Subject) -> Iterator[Hit]:
    for entry in entries(subject.document.data):
        citation = _node(entry.body)
        if citation is None:
            continue
        path = subject.sources.find(citation.file, subject.document.path)
        why = _why_uncollected(subject, citation, path) if path else ""
        if why:
            text = f"`{'::'.join((citation.file, *citation.names))}` is never collected: {why}"
            yield Hit(at=(*entry.at, "test"), text=text)


def _why_uncollected(subject: Subject, citation: Citation, path: Path) -> str:
    if not (path.name.startswith("test_") or path.stem.endswith("_test")):
        return "pytest collects `test_*.py` and `*_test.py`"
    known = subject.sources.definitions(path) or {}
    return next((known[name].unrun for name in citation.names if name in known), "")


RULES = (
    Rule(
        id="missing-file",
        reason="A file cited as evidence that does not exist is no evidence.",
        severity=Severity.ERROR,
        look=_missing_file,
    ),
    Rule(
        id="missing-function",
        reason="A function cited as evidence that its file does not define is no evidence.",
        severity=Severity.ERROR,
        look=_missing_function,
    ),
    Rule(
        id="unread-source",
        reason="Names in a file that nothing here can parse were taken on trust.",
        severity=Severity.NOTE,
        look=_unread_source,
    ),
    Rule(
        id="unrunnable-test",
        reason="A test that is prose, or has placeholders, has never been run as it stands.",
        severity=Severity.WARNING,
        look=_unrunnable,
    ),
    Rule(
        id="uncollected-test",
        reason="A test that exists but that the runner never collects never fails.",
        severity=Severity.ERROR,
        look=_uncollected,
    ),
)
