"""One claim on one target: what a falsifier item is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.captures.plan import Plan
from pytest_falsify.errors import ContractError
from pytest_falsify.stages.vocabulary import canonical, in_order

if TYPE_CHECKING:
    from pytest_falsify.contracts.model import CheckSpec, Contract, Falsifier, Target


POSITIONS: dict[str, tuple[int, ...] | None] = {"all": None, "last": (-1,)}


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
        """The names of the inputs that it is tried with."""
        return self.contract.inputs_of(self.falsifier)

    def plan(self, *, decode_steps: int = 0, needs_answer: bool = True) -> Plan:
        """Return what the check's ``stages``, ``layers`` and ``positions`` ask to observe.

        Args:
            decode_steps: how many tokens are decoded after the prefill.
            needs_answer: whether the check looks at the logits or the continuation.
        """
        stages = self.parameter("stages", "all")
        return Plan(
            stages=None if stages == "all" else in_order(map(canonical, stages)),
            layers=parse_layers(self.parameter("layers", "all")),
            decode_steps=decode_steps,
            positions=parse_positions(self.parameter("positions", "all")),
            needs_answer=needs_answer,
        )


def parse_positions(positions: str | list[int]) -> tuple[int, ...] | None:
    """Read ``all``, ``last``, or a list of positions; None means all.

    Raises:
        ContractError: when the text is none of them.
    """
    if not isinstance(positions, str):
        return tuple(positions)
    if positions in POSITIONS:
        return POSITIONS[positions]
    msg = f"`{positions}` names no positions"
    raise ContractError(msg, expected="`all`, `last`, or a list of positions")


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
