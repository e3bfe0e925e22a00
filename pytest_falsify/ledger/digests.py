"""What a verdict depends on at one target, as digests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.fields import as_object, exact_keys, is_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

DISPUTED = "disputed"
"""Stands where merged records name different digests: no confirmation is fresh against it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """What a verdict depends on at one target; None where it is unknown or plays no part.

    Attributes:
        subject: the implementation on trial, as it ran: weights, engine, version, settings.
        oracle: the trusted reference, with the control.
        inputs: the token ids.
        sources: the content of the sources that captures declare, and of input files.
        model: the content of the model's files.
        declared: the target as the contract declares it: model, revision, device, level.

    Raises:
        LedgerError: when one is neither a digest nor ``disputed``.
    """

    subject: str | None = None
    oracle: str | None = None
    inputs: str | None = None
    sources: str | None = None
    model: str | None = None
    declared: str | None = None

    NAMES = ("subject", "oracle", "inputs", "sources", "model", "declared")

    def __post_init__(self) -> None:
        for name, value in self.items():
            if value is not None and value != DISPUTED:
                check_digest(name, value)

    def values(self) -> tuple[str | None, ...]:
        """Return the digests in the order of their names."""
        return self.subject, self.oracle, self.inputs, self.sources, self.model, self.declared

    def items(self) -> tuple[tuple[str, str | None], ...]:
        """Return the names with their digests, in a fixed order."""
        return tuple(zip(self.NAMES, self.values(), strict=True))

    def over(self, other: Digests) -> Digests:
        """Return these digests, and the other's where one is unknown."""
        pairs = zip(self.values(), other.values(), strict=True)
        return Digests.of(one if one is not None else two for one, two in pairs)

    def refuse_dispute(self) -> None:
        """Hold the digests of a record to their form: it knows what it was made with.

        Raises:
            LedgerError: naming the first that is disputed.
        """
        if DISPUTED in self.values():
            for name, value in self.items():
                if value is not None:
                    check_digest(name, value)

    @classmethod
    def of(cls, values: Iterable[str | None]) -> Digests:
        """Return the digests that stand in the order of their names.

        The falsifiers of one target mostly have the same ones, so they are one object.
        """
        ordered = tuple(values)
        try:
            return _shared(ordered)
        except TypeError:  # a value that cannot be hashed is no digest
            return _shared.__wrapped__(ordered)

    def to_json(self) -> dict[str, str]:
        """Return the known ones as a JSON object."""
        return {name: value for name, value in self.items() if value is not None}

    @classmethod
    def from_json(cls, value: object) -> Digests:
        """Read what ``to_json`` wrote.

        Raises:
            LedgerError: when a member is neither a digest nor ``disputed``.
        """
        data = as_object(value, "a set of digests")
        values = tuple(map(data.get, cls.NAMES))
        if len(data) != len(values) - values.count(None):  # a key is not known, or null
            exact_keys(data, "a set of digests", optional=DIGEST_NAMES)
            check_digest(next(name for name, each in data.items() if each is None), None)
        return cls.of(values)


DIGEST_NAMES = frozenset(Digests.NAMES)
NO_DIGESTS = Digests()


def check_digest(name: str, value: object) -> None:
    """Hold a digest to its form.

    Raises:
        LedgerError: when it is not ``sha256:<64 hex digits>``.
    """
    if not is_digest(value):
        msg = f"{name} is {value!r}"
        raise LedgerError(msg, expected="sha256: and 64 hexadecimal digits")


@lru_cache(maxsize=4096)
def _shared(values: tuple[str | None, ...]) -> Digests:
    return Digests(**dict(zip(Digests.NAMES, values, strict=True)))
