"""Rules about names that must lead somewhere: bindings, requirements, dependencies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.contracts.entries import entries
from pytest_falsify.contracts.lint.finding import Hit, Rule, Severity, Subject
from pytest_falsify.contracts.problems import nearest
from pytest_falsify.contracts.texts import texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_falsify.contracts.problems import Steps


def claims_of(subject: Subject) -> frozenset[str]:
    """Return every name that a falsifier can bind to: equations, obligations, their words."""
    contract = subject.contract
    names = {each.name for each in contract.equations}
    names |= {text for each in contract.equations for text in each.invariants}
    for each in contract.obligations:
        names |= {name for name in (each.id, each.property) if name}
    return frozenset(names | _ids_below(subject.document.data, ("invariants", "gates")))


def _ids_below(data: dict[str, Any], sections: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for section in sections:
        value = data.get(section)
        if isinstance(value, dict):
            found |= set(value)
        for item in value if isinstance(value, list) else ():
            if isinstance(item, dict) and isinstance(item.get("id"), str):
                found.add(item["id"])
    return found


def _all_ids(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("id"), str):
            yield value["id"]
        for inner in value.values():
            yield from _all_ids(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _all_ids(inner)


def _unresolved(at: Steps, names: Iterable[str], known: frozenset[str], noun: str) -> Iterator[Hit]:
    for name in names:
        if name not in known:
            guess = nearest(name, known)
            text = f"`{name}` names no {noun} of this contract"
            yield Hit(at=at, text=f"{text}; {guess}" if guess else text)


def _items(subject: Subject, section: str) -> Iterator[tuple[Steps, dict[str, Any]]]:
    value = subject.document.data.get(section)
    for position, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            yield (section, position), item


def _binding(subject: Subject) -> Iterator[Hit]:
    known = claims_of(subject)
    for entry in entries(subject.document.data):
        names = texts(entry.body.get("binds_to"))
        yield from _unresolved((*entry.at, "binds_to"), names, known, "equation or obligation")


def _obligation(subject: Subject) -> Iterator[Hit]:
    known = claims_of(subject)
    for at, item in _items(subject, "kani_harnesses"):
        names = texts(item.get("obligation"))
        yield from _unresolved((*at, "obligation"), names, known, "obligation or equation")
    for entry in entries(subject.document.data):
        names = texts(entry.body.get("obligation"))
        yield from _unresolved((*entry.at, "obligation"), names, known, "obligation or equation")


def _requires(subject: Subject) -> Iterator[Hit]:
    known = frozenset(_all_ids(subject.document.data)) | claims_of(subject)
    for at, item in _items(subject, "proof_obligations"):
        names = texts(item.get("requires"))
        yield from _unresolved((*at, "requires"), names, known, "obligation")


def _discharged_by(subject: Subject) -> Iterator[Hit]:
    known = frozenset(_all_ids(subject.document.data))
    for at, item in _items(subject, "proof_obligations"):
        names = texts(item.get("discharged_by"))
        yield from _unresolved((*at, "discharged_by"), names, known, "falsifier or harness")


def _depends_on(subject: Subject) -> Iterator[Hit]:
    data = subject.document.data
    metadata = data.get("metadata") or {}
    for at, value in (
        (("metadata", "depends_on"), metadata.get("depends_on")),
        (("depends_on",), data.get("depends_on")),
    ):
        for name in texts(value):
            stem = name.removesuffix(".yaml").removesuffix(".yml")
            is_known = stem in subject.peers.names or any(
                subject.sources.find(f"{stem}{suffix}", subject.document.path)
                for suffix in (".yaml", ".yml")
            )
            if not is_known:
                yield Hit(at=at, text=f"`{name}` is no contract that was found")


RULES = (
    Rule(
        id="dangling-binding",
        reason="A falsifier bound to a name that does not exist supports nothing.",
        severity=Severity.ERROR,
        look=_binding,
    ),
    Rule(
        id="dangling-obligation",
        reason="A harness that cites an obligation nobody wrote down proves an invention.",
        severity=Severity.ERROR,
        look=_obligation,
    ),
    Rule(
        id="dangling-requires",
        reason="A precondition that does not exist is never checked.",
        severity=Severity.ERROR,
        look=_requires,
    ),
    Rule(
        id="dangling-discharged-by",
        reason="An obligation said to be discharged by something that does not exist is open.",
        severity=Severity.ERROR,
        look=_discharged_by,
    ),
    Rule(
        id="dangling-depends-on",
        reason="A contract that builds on one that is not there has no ground.",
        severity=Severity.WARNING,
        look=_depends_on,
    ),
)
