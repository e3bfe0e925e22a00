"""Rules about claims that no falsifier tries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.contracts.lint.finding import Hit, Rule, Severity, Subject
from pytest_falsify.contracts.texts import texts
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def _bound(subject: Subject) -> frozenset[str]:
    names: set[str] = set()
    for falsifier in subject.contract.falsifiers:
        names |= set(falsifier.binds_to)
        for key in ("obligation", "invariant"):
            names |= set(texts(falsifier.extra.get(key)))
    return frozenset(names)


def _invariant(subject: Subject) -> Iterator[Hit]:
    bound = _bound(subject)
    is_listed = isinstance(subject.document.data.get("equations"), list)
    for position, equation in enumerate(subject.contract.equations):
        at = ("equations", position if is_listed else equation.name)
        for invariant in equation.invariants:
            if not {equation.name, invariant} & bound:
                text = f"no falsifier binds to `{equation.name}`, so nothing tries `{invariant}`"
                yield Hit(at=(*at, "invariants"), text=text)


def _obligation(subject: Subject) -> Iterator[Hit]:
    bound = _bound(subject)
    ids = {falsifier.id for falsifier in subject.contract.falsifiers}
    for position, obligation in enumerate(subject.contract.obligations):
        by = set(texts(obligation.extra.get("discharged_by")))
        names = {obligation.id, obligation.property} - {None}
        if not names & bound and not by & ids:
            name = obligation.id or obligation.property or obligation.kind or "it"
            text = f"no falsifier binds to the obligation `{name}`"
            yield Hit(at=("proof_obligations", position), text=text)


def _fewer(subject: Subject) -> Iterator[Hit]:
    obligations, falsifiers = len(subject.contract.obligations), len(subject.contract.falsifiers)
    if 0 < falsifiers < obligations:
        text = f"{number_of(falsifiers, 'falsifier')} for {number_of(obligations, 'obligation')}"
        yield Hit(at=("proof_obligations",), text=text)


RULES = (
    Rule(
        id="unfalsifiable-invariant",
        reason="An invariant that no falsifier tries is a wish.",
        severity=Severity.WARNING,
        look=_invariant,
    ),
    Rule(
        id="unfalsifiable-obligation",
        reason="An obligation that no falsifier tries is never met, only stated.",
        severity=Severity.WARNING,
        look=_obligation,
    ),
    Rule(
        id="fewer-falsifiers",
        reason="With fewer falsifiers than obligations, some obligation is not tried.",
        severity=Severity.NOTE,
        look=_fewer,
    ),
)
