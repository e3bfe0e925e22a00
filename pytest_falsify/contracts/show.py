"""What ``pytest-falsify show ID`` prints about a falsifier."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

from pytest_falsify.contracts.shell_words import judge_test

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_falsify.contracts.model import CheckSpec, Contract, Falsifier, Target

_WIDTH = 100
_LABEL = 12


def show(
    contract: Contract,
    falsifier: Falsifier,
    *,
    place: str,
    status: str = "UNTRIED",
    because: str = "",
    bound_tests: Sequence[str] = (),
) -> str:
    """Return a falsifier, its targets, what is bound to it, its status and why.

    Args:
        contract: the contract that it stands in.
        falsifier: the falsifier.
        place: ``path:line`` as the reader would open it.
        status: what the ledger says.
        because: the ledger's reason.
        bound_tests: node ids of the Python tests that are bound to it.
    """
    rows = [
        ("rule", falsifier.rule),
        ("prediction", falsifier.prediction),
        ("if it fails", falsifier.if_fails),
        *(("binds to", claim) for claim in _claims(contract, falsifier)),
        *(("target", _target(target)) for target in contract.targets_of(falsifier)),
        *(("check", line) for line in _check(falsifier.check)),
        *(("test", line) for line in _test(falsifier)),
        *(("bound test", test) for test in bound_tests),
        ("requires", falsifier.require or contract.require or "FUNCTIONAL (the gate's default)"),
        ("claims", falsifier.claimed_status or ""),
        ("status", f"{status}: {because}" if because else status),
    ]
    lines = [f"{falsifier.id}  {place}"]
    above = ""
    for label, words in rows:
        lines += _row("" if label == above else label, words)
        above = label
    return "\n".join(lines) + "\n"


def _row(label: str, words: str) -> list[str]:
    body = textwrap.wrap(words, _WIDTH - _LABEL - 2) if words else []
    heads = (label, *("" for _ in body))
    return [f"  {head:<{_LABEL}}{line}" for head, line in zip(heads, body, strict=False)]


def _claims(contract: Contract, falsifier: Falsifier) -> Iterator[str]:
    equations = {each.name: each for each in contract.equations}
    for name in falsifier.binds_to:
        equation = equations.get(name)
        formula = equation.formula if equation else None
        yield f"{name}: {' '.join(formula.split())}" if formula else name


def _target(target: Target) -> str:
    words = [target.model, target.device, target.level.value]
    words += [word for word in (target.revision, target.memory) if word]
    return f"{target.name}: {', '.join(words)}"


def _check(check: CheckSpec | None) -> Iterator[str]:
    if check is None:
        return
    yield check.kind
    for key, value in check.parameters.items():
        yield f"{key}: {_spelled(value)}"


def _spelled(value: object) -> str:
    if isinstance(value, list) and all(isinstance(each, (str, int)) for each in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _test(falsifier: Falsifier) -> Iterator[str]:
    if falsifier.test is None or falsifier.check is not None:
        return
    yield from falsifier.test.splitlines()
    if why := judge_test(falsifier.test).why:
        yield f"(it cannot be run: {why})"


def find(contracts: Sequence[Contract], id: str) -> Mapping[str, tuple[Contract, Falsifier]]:  # noqa: A002 - the field's own word
    """Return the falsifiers with an id, by their contract's path: two contracts may share one."""
    return {
        str(contract.path): (contract, falsifier)
        for contract in contracts
        if (falsifier := contract.falsifier(id)) is not None
    }
