"""One claim on one target: what a falsifier item is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.captures.plan import Plan
from pytest_falsify.errors import ContractError
from pytest_falsify.stages.vocabulary import STAGES, canonical

if TYPE_CHECKING:
    from pytest_falsify.contracts.model import CheckSpec, Contract, Falsifier, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A falsifier, the target it is tried on, and the contract both stand in."""

    contract: Contract
    falsifier: Falsifier
    target: Target

    @property
    def check(self) -> CheckSpec:
        """The executable part; only claims that have one are tried.

        Raises:
            ContractError: when the falsifier has no check.
        """
        if self.falsifier.check is None:
            msg = f"{self.falsifier.id} has no check"
            raise ContractError(msg, path=self.contract.path, line=self.falsifier.line)
        return self.falsifier.check

    def parameter(self, name: str, default: Any = None) -> Any:
        """Return a parameter of the check as it was written, or the default."""
        return self.check.parameters.get(name, default)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that it is tried with: those it names, or all."""
        return tuple(self.parameter("inputs", ())) or tuple(self.contract.inputs)

    def plan(self, *, decode_steps: int = 0) -> Plan:
        """Return what the check's ``stages`` and ``layers`` ask to observe."""
        stages = self.parameter("stages", "all")
        named = None if stages == "all" else {canonical(name) for name in stages}
        return Plan(
            stages=None if named is None else tuple(name for name in STAGES if name in named),
            layers=parse_layers(self.parameter("layers", "all")),
            decode_steps=decode_steps,
        )


def parse_layers(layers: str | list[int]) -> tuple[int, ...] | None:
    """Read ``all``, a list of layers, or ``a..b`` with its end left out; None means all.

    Raises:
        ContractError: when the text is neither.
    """
    if isinstance(layers, list):
        return tuple(sorted(set(layers)))
    if layers == "all":
        return None
    first, dots, end = layers.partition("..")
    if dots and first.isdigit() and end.isdigit() and int(first) < int(end):
        return tuple(range(int(first), int(end)))
    msg = f"`{layers}` names no layers"
    raise ContractError(msg, expected="`all`, a list, or `a..b` (b left out, and above a)")
