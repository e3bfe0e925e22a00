"""A falsifier that a command names, and its captures, made as an item of pytest would make them."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_falsify.errors import Blocked, ContractError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_falsify._maker import CaptureMaker
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.contracts.model import Contract, Falsifier, Target


def claim_named(name: str, target: str | None = None) -> Claim:
    """Return the claim that ``contracts/c.yaml::FALSIFY-X-001`` or ``...[target]`` names.

    Args:
        name: as pytest writes it.
        target: where, if the name does not say it; by default the first of its targets.

    Raises:
        ContractError: when there is no such falsifier, it has no such target, or the name says
            another target than the option.
    """
    from pytest_falsify._loading import load
    from pytest_falsify.checks.claim import Claim

    path, separator, rest = name.partition("::")
    contract = load(Path(path)) if separator else None
    id_, _, on = rest.removesuffix("]").partition("[")
    falsifier = contract.falsifier(id_) if contract else None
    if contract is None or falsifier is None:
        msg = f"`{name}` names no falsifier"
        raise ContractError(msg, expected="contracts/c.yaml::FALSIFY-X-001")
    if target and on and target != on:
        msg = f"`{name}` names the target `{on}`, and --target `{target}`"
        remedy = "leave out --target, or the brackets"
        raise ContractError(msg, expected="one target", remedy=remedy)
    found = _target(contract, falsifier, target or on)
    return Claim(contract=contract, falsifier=falsifier, target=found)


def _target(contract: Contract, falsifier: Falsifier, named: str) -> Target:
    known = {each.name: each for each in contract.targets_of(falsifier)}
    if named and named not in known:
        msg = f"`{named}` is no target of {falsifier.id}"
        raise ContractError(msg, expected=f"one of {', '.join(known)}")
    return known[named] if named else next(iter(known.values()))


def maker_of(claim: Claim, *, may_run_commands: bool) -> CaptureMaker:
    """Return what makes the captures of a claim."""
    from pytest_falsify._maker import CaptureMaker
    from pytest_falsify.captures.pool import CapturePool
    from pytest_falsify.engines.device import resolve_device

    return CaptureMaker(
        target=claim.target,
        device=resolve_device(claim.target),
        pool=CapturePool(),
        root=claim.contract.path.parent,
        claim=claim,
        may_run_commands=may_run_commands,
    )


@contextmanager
def blocked() -> Iterator[None]:
    """Turn what would skip an item of pytest into an error.

    Raises:
        Blocked: when something is absent here, or not permitted.
    """
    import pytest

    try:
        yield
    except pytest.skip.Exception as error:
        raise Blocked(str(error)) from None
