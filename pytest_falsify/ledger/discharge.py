"""What has to be on file before a claim that holds live counts as DISCHARGED."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.evidence import Outcome, Source
from pytest_falsify.ledger.fields import exact_keys, get_texts
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_falsify.ledger.evidence import Evidence

_MACHINES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Discharge:
    """The demands of one falsifier; without any, those of the design hold.

    Attributes:
        machines: how many machines must agree; None means two, or one that is bit-equal.
        platforms: words that the platform of some record must contain, one record for each.
        repeats: how often the observation must have been repeated within its run.
        signed: whether only signed records count.
    """

    machines: int | None = None
    platforms: tuple[str, ...] = ()
    repeats: int | None = None
    signed: bool = False

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Discharge:
        """Read the ``discharge:`` of an entry.

        Raises:
            LedgerError: when a demand is unknown or of the wrong type.
        """
        if not data:
            return NO_DEMANDS
        what = "discharge"
        exact_keys(data, what, optional={"machines", "platforms", "repeats", "signed"})
        signed = data.get("signed", False)
        if not isinstance(signed, bool):
            msg = f"'signed' of {what} is {signed!r}"
            raise LedgerError(msg, expected="true or false")
        return cls(
            machines=_count(data, "machines"),
            platforms=tuple(sorted(set(get_texts(data, "platforms", what)))),
            repeats=_count(data, "repeats"),
            signed=signed,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the demands as a JSON object; empty when there are none of its own."""
        value = {
            "machines": self.machines,
            "platforms": list(self.platforms),
            "repeats": self.repeats,
            "signed": self.signed,
        }
        return {name: each for name, each in value.items() if each}

    @property
    def machines_needed(self) -> int:
        """How many machines must agree when nothing is bit-equal."""
        return self.machines or _MACHINES

    def accepts(self, evidence: Evidence) -> bool:
        """Return whether a record can support DISCHARGED at all."""
        return (
            evidence.outcome is Outcome.HELD
            and evidence.source is Source.LIVE
            and evidence.has_caught_all
            and not evidence.caveats
            and (not self.signed or evidence.signature is not None)
            and evidence.repeats >= (self.repeats or 0)
        )

    def missing(self, accepted: Sequence[Evidence]) -> tuple[str, ...]:
        """Return in words what accepted records of one target still lack; nothing when met."""
        return (*self._missing_machines(accepted), *self._missing_platforms(accepted))

    def witnesses(self, accepted: Sequence[Evidence]) -> tuple[Evidence, ...]:
        """Return the accepted records of one target that ``missing`` needs to see, by id.

        Of each machine and each kind the smallest ids stay, so choosing witnesses commutes with
        uniting sets.
        """
        ordered = sorted(accepted, key=lambda each: each.id)
        chosen = _first_of_each_machine(ordered)[: self.machines_needed]
        chosen += [each for each in ordered if each.is_bit_equal][:1]
        for words in self.platforms:
            chosen += [each for each in ordered if _runs_on(each, words)][:1]
        return tuple({each.id: each for each in chosen}.values())

    def machines_in(self, accepted: Sequence[Evidence]) -> int:
        """Return how many machines accepted records come from, as far as they are needed."""
        return min(len({each.machine for each in accepted}), self.machines_needed)

    def conditions(self) -> tuple[str, ...]:
        """Return in words what a record must have to be accepted."""
        words = ["planted faults that are all caught"]
        if self.repeats:
            words.append(number_of(self.repeats, "repeat"))
        if self.signed:
            words.append("a signature")
        return tuple(words)

    def join(self, other: Discharge) -> Discharge:
        """Return the demands of both."""
        return Discharge(
            machines=_larger(self.machines, other.machines),
            platforms=tuple(sorted({*self.platforms, *other.platforms})),
            repeats=_larger(self.repeats, other.repeats),
            signed=self.signed or other.signed,
        )

    def _missing_machines(self, accepted: Sequence[Evidence]) -> tuple[str, ...]:
        lacking = self.machines_needed - self.machines_in(accepted)
        if lacking == 0:
            return ()
        if self.machines is not None:
            return (_machines(lacking),)
        if any(each.is_bit_equal for each in accepted):
            return ()
        return (f"{_machines(lacking)} or bit-equality",)

    def _missing_platforms(self, accepted: Sequence[Evidence]) -> tuple[str, ...]:
        return tuple(
            f"a run on {words}"
            for words in self.platforms
            if not any(_runs_on(each, words) for each in accepted)
        )


NO_DEMANDS = Discharge()


def _first_of_each_machine(ordered: Sequence[Evidence]) -> list[Evidence]:
    """The first record of each machine; a machine may have several with other numbers."""
    first: dict[str, Evidence] = {}
    for each in ordered:
        first.setdefault(each.machine, each)
    return list(first.values())


def _runs_on(evidence: Evidence, words: str) -> bool:
    return words.casefold() in evidence.platform.casefold()


def _machines(count: int) -> str:
    return f"{count} more machine{'s' if count > 1 else ''}"


def _larger(one: int | None, other: int | None) -> int | None:
    known = [each for each in (one, other) if each is not None]
    return max(known) if known else None


def _count(data: Mapping[str, Any], key: str) -> int | None:
    value = data.get(key)
    if value is None or (type(value) is int and value > 0):
        return value
    msg = f"{key!r} of discharge is {value!r}"
    raise LedgerError(msg, expected="a whole number above 0")
