"""One immutable record: a verdict plus everything it depended on, as digests."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_falsify.canonical import digest
from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.fields import (
    as_object,
    exact_keys,
    get_member,
    get_object,
    get_text,
    get_texts,
    is_digest,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DISPUTED = "disputed"
"""Stands where merged records name different digests: no confirmation is fresh against it."""

_SIGNIFICANT = ".3g"
_PLAIN = (str, int)
_SEQUENCES = (list, tuple)
_DIGESTS = frozenset({"subject", "oracle", "inputs", "sources", "model", "declared"})
_REQUIRED = frozenset(
    {
        "content",
        "coverage",
        "entry",
        "falsifier",
        "id",
        "machine",
        "observed",
        "outcome",
        "platform",
        "source",
        "target",
    }
)
_OPTIONAL = _DIGESTS | {"faults", "reasons", "retracted", "signature"}


class Outcome(Enum):
    """What one try of a claim came to."""

    HELD = "held"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    BLOCKED = "blocked"

    @property
    def is_decisive(self) -> bool:
        """Whether the claim was decided, one way or the other."""
        return self is Outcome.HELD or self is Outcome.REFUTED


class Source(Enum):
    """Where the tensors that were judged came from."""

    LIVE = "live"
    ALGORITHM = "algorithm"
    RECORDED = "recorded"
    MOCK = "mock"
    BOUND = "bound"


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
    """

    subject: str | None = None
    oracle: str | None = None
    inputs: str | None = None
    sources: str | None = None
    model: str | None = None
    declared: str | None = None

    NAMES = ("subject", "oracle", "inputs", "sources", "model", "declared")

    def values(self) -> tuple[str | None, ...]:
        """Return the digests in the order of their names."""
        return self.subject, self.oracle, self.inputs, self.sources, self.model, self.declared

    def items(self) -> tuple[tuple[str, str | None], ...]:
        """Return the names with their digests, in a fixed order."""
        return tuple(zip(self.NAMES, self.values(), strict=True))

    def over(self, other: Digests) -> Digests:
        """Return these digests, and the other's where one is unknown."""
        pairs = zip(self.values(), other.values(), strict=True)
        return Digests.of([one if one is not None else two for one, two in pairs])

    @classmethod
    def of(cls, values: Sequence[str | None]) -> Digests:
        """Return the digests that stand in the order of their names."""
        return cls(**dict(zip(cls.NAMES, values, strict=True)))

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
        try:
            return _read_digests(tuple(data.items()))
        except TypeError:  # a value that cannot be hashed is no digest
            return _read_digests.__wrapped__(tuple(data.items()))


@lru_cache(maxsize=4096)
def _read_digests(items: tuple[tuple[str, Any], ...]) -> Digests:
    """Read digests; the falsifiers of one target mostly have the same ones."""
    data = dict(items)
    exact_keys(data, "a set of digests", optional=_DIGESTS)
    for name, each in items:
        if each != DISPUTED:
            _check_digest(name, each)
    return Digests(**data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraction:
    """Who declared a refutation to have been wrong, and why."""

    who: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Who signed the content of a record, and the armoured SSH signature."""

    signer: str
    armour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One verdict on one target by one machine, with the numbers it rests on.

    Two records with the same ``id`` are the same piece of evidence, whatever numbers they carry.

    Attributes:
        entry: digest of the meaning of the contract's entry.
        subject: digest of the implementation on trial: weights, engine, version, sources.
        oracle: digest of the trusted reference.
        inputs: digest of the token ids.
        sources: digest of declared sources and input files; see ``Digests`` for this and the next.
        model: digest of the model's files.
        declared: digest of the target's declaration.
        machine: digest that stands for the machine (see ``ledger.machine``).
        platform: the same in words, ``linux-x86_64, NVIDIA H200, torch 2.13.0``.
        reasons: the verdict in words, the most important first.
        observed: numbers of the verdict; floats keep three significant digits.
        coverage: how much was compared (sites, layers, tokens).
        faults: ``planted`` and ``caught`` faults; None when none were planted.
        retracted: set on a refutation that was declared wrong.
        id: digest of what makes it this piece of evidence.
        content: digest of the id and of all else it says, without retraction and signature.

    Raises:
        LedgerError: when a digest is not ``sha256:<64 hex digits>``, or a retraction stands on
            something that is not a refutation.
    """

    falsifier: str
    target: str
    entry: str
    machine: str
    outcome: Outcome
    source: Source
    platform: str = ""
    subject: str | None = None
    oracle: str | None = None
    inputs: str | None = None
    sources: str | None = None
    model: str | None = None
    declared: str | None = None
    reasons: tuple[str, ...] = ()
    observed: Mapping[str, Any] = field(default_factory=dict)
    coverage: Mapping[str, Any] = field(default_factory=dict)
    faults: Mapping[str, Any] | None = None
    retracted: Retraction | None = None
    signature: Signature | None = None
    id: str = field(init=False)
    content: str = field(init=False)

    def __post_init__(self) -> None:
        _check_digests((self.entry, self.machine, *self._digest_values()))
        if self.retracted and self.outcome is not Outcome.REFUTED:
            msg = f"a retraction stands on evidence that {self.falsifier} {self.outcome.value}"
            raise LedgerError(msg, expected="a retraction of a refutation")
        for name in ("observed", "coverage", "faults"):
            object.__setattr__(self, name, settle(getattr(self, name)))
        object.__setattr__(self, "id", digest(self._identity()))
        object.__setattr__(self, "content", digest(self._content()))

    def __hash__(self) -> int:
        return hash((self.id, self.content))

    @property
    def digests(self) -> Digests:
        """What the verdict depended on at its target."""
        return Digests(
            subject=self.subject,
            oracle=self.oracle,
            inputs=self.inputs,
            sources=self.sources,
            model=self.model,
            declared=self.declared,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object, members without a value left out."""
        value: dict[str, Any] = {
            "content": self.content,
            "coverage": self.coverage,
            "entry": self.entry,
            "falsifier": self.falsifier,
            "id": self.id,
            "machine": self.machine,
            "observed": self.observed,
            "outcome": self.outcome.value,
            "platform": self.platform,
            "source": self.source.value,
            "target": self.target,
        }
        value.update(self.digests.to_json())
        if self.reasons:
            value["reasons"] = list(self.reasons)
        if self.faults is not None:
            value["faults"] = self.faults
        if self.retracted:
            value["retracted"] = {"who": self.retracted.who, "why": self.retracted.why}
        if self.signature:
            value["signature"] = {"armour": self.signature.armour, "signer": self.signature.signer}
        return value

    @classmethod
    def from_json(cls, value: object) -> Evidence:
        """Read what ``to_json`` wrote.

        Raises:
            LedgerError: when a member is missing, unknown or of the wrong type, or when ``id`` or
                ``content`` is not the digest of the record (somebody edited it).
        """
        data = as_object(value, "evidence")
        exact_keys(data, "evidence", required=_REQUIRED, optional=_OPTIONAL)
        falsifier = get_text(data, "falsifier", "evidence")
        what = f"evidence of {falsifier}"
        evidence = cls(
            falsifier=falsifier,
            target=get_text(data, "target", what),
            entry=data["entry"],
            machine=data["machine"],
            outcome=get_member(data, "outcome", what, Outcome),
            source=get_member(data, "source", what, Source),
            platform=get_text(data, "platform", what),
            subject=data.get("subject"),
            oracle=data.get("oracle"),
            inputs=data.get("inputs"),
            sources=data.get("sources"),
            model=data.get("model"),
            declared=data.get("declared"),
            reasons=get_texts(data, "reasons", what),
            observed=_Settled(get_object(data, "observed", what)),
            coverage=_Settled(get_object(data, "coverage", what)),
            faults=_Settled(get_object(data, "faults", what)) if "faults" in data else None,
            retracted=_retraction(data["retracted"]) if "retracted" in data else None,
            signature=_signature(data["signature"]) if "signature" in data else None,
        )
        evidence._check_unedited(data)
        return evidence

    def without_retraction(self) -> Evidence:
        """Return the record as it was observed."""
        return replace(self, retracted=None) if self.retracted else self

    @property
    def fault_counts(self) -> tuple[int, int] | None:
        """How many faults were caught and planted; None where none were to be planted."""
        if self.faults is None:
            return None
        caught, planted = self.faults.get("caught"), self.faults.get("planted")
        return (caught, planted) if isinstance(caught, int) and isinstance(planted, int) else None

    @property
    def has_caught_all(self) -> bool:
        """Whether faults were planted and every one of them was caught."""
        counts = self.fault_counts
        return counts is not None and counts[1] > 0 and counts[0] == counts[1]

    @property
    def is_bit_equal(self) -> bool:
        """Whether subject and oracle agreed in every bit."""
        return self.observed.get("bit_equal") is True

    @property
    def repeats(self) -> int:
        """How often the observation was repeated within its run."""
        repeats = self.observed.get("repeats")
        return repeats if isinstance(repeats, int) else 0

    def _digest_values(self) -> tuple[str | None, ...]:
        return self.subject, self.oracle, self.inputs, self.sources, self.model, self.declared

    def _identity(self) -> list[str | bool | int | None]:
        """All that a status is computed from: where two records differ in it, both count.

        Else the union of two sets would depend on which of two equal ids it kept.
        """
        return [
            self.falsifier,
            self.entry,
            self.target,
            self.subject,
            self.oracle,
            self.inputs,
            self.sources,
            self.model,
            self.declared,
            self.machine,
            self.outcome.value,
            self.source.value,
            self.platform,
            self.has_caught_all,
            self.is_bit_equal,
            self.repeats,
        ]

    def _content(self) -> list[Any]:
        return [
            self.id,
            self.platform,
            self.reasons,
            self.observed,
            self.coverage,
            self.faults,
        ]

    def _check_unedited(self, data: Mapping[str, Any]) -> None:
        for name, computed in (("id", self.id), ("content", self.content)):
            if data[name] != computed:
                msg = f"the {name} of evidence of {self.falsifier} on {self.target} does not match"
                raise LedgerError(
                    msg,
                    expected=f"{computed}, the digest of what the record says",
                    remedy="restore the file from git; evidence is recorded by runs, not by hand",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one run saw of one falsifier at one target.

    Attributes:
        today: the digests that hold now, as far as this run could know them.
        evidence: the verdict; None when the run only learnt the digests.
    """

    contract: str
    falsifier: str
    target: str
    today: Digests
    evidence: Evidence | None = None

    @classmethod
    def of(cls, contract: str, evidence: Evidence) -> Observation:
        """Return the observation that consists of a verdict and its own digests."""
        return cls(
            contract=contract,
            falsifier=evidence.falsifier,
            target=evidence.target,
            today=evidence.digests,
            evidence=evidence,
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        value: dict[str, Any] = {
            "contract": self.contract,
            "falsifier": self.falsifier,
            "target": self.target,
            "today": self.today.to_json(),
        }
        if self.evidence is not None:
            value["evidence"] = self.evidence.to_json()
        return value

    @classmethod
    def from_json(cls, value: object) -> Observation:
        """Read what ``to_json`` wrote.

        Raises:
            LedgerError: when it is nonsense, or its evidence is about something else.
        """
        data = as_object(value, "an observation")
        names = ("contract", "falsifier", "target")
        exact_keys(data, "an observation", required={*names, "today"}, optional={"evidence"})
        contract, falsifier, target = (get_text(data, name, "an observation") for name in names)
        evidence = Evidence.from_json(data["evidence"]) if "evidence" in data else None
        if evidence and (evidence.falsifier, evidence.target) != (falsifier, target):
            msg = f"an observation of {falsifier} on {target} holds evidence about something else"
            raise LedgerError(msg, expected=f"evidence of {falsifier} on {target}")
        return cls(
            contract=contract,
            falsifier=falsifier,
            target=target,
            today=Digests.from_json(data["today"]),
            evidence=evidence,
        )


def settle(value: Any) -> Any:
    """Return a JSON value of its own, with floats that stay small and stable in a ledger.

    Floats keep three significant digits; a NaN or an infinity becomes the string ``nan``, ``inf``
    or ``-inf``, so that a refutation that rests on one can be recorded. Tuples become lists.

    Raises:
        LedgerError: when something is not a JSON value.
    """
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, _Settled):
        return value
    if isinstance(value, float):
        return float(format(value, _SIGNIFICANT)) if math.isfinite(value) else str(float(value))
    if isinstance(value, _SEQUENCES):
        return [settle(each) for each in value]
    try:
        members = value.items()
    except AttributeError:
        msg = f"a {type(value).__name__} cannot be recorded as evidence"
        raise LedgerError(msg, expected="numbers, strings, lists and mappings") from None
    return {key if isinstance(key, str) else _no_key(key): settle(each) for key, each in members}


class _Settled(dict[str, Any]):
    """Numbers that were settled when they were recorded: the record's digest says so."""


def _no_key(key: object) -> NoReturn:
    msg = f"{key!r} cannot be the name of an observed number"
    raise LedgerError(msg, expected="a string")


def _check_digest(name: str, value: object) -> None:
    if not is_digest(value):
        msg = f"{name} is {value!r}"
        raise LedgerError(msg, expected="sha256: and 64 hexadecimal digits")


def _check_digests(values: tuple[object, ...]) -> None:
    try:
        _known_digests(values)
    except TypeError:  # a value that cannot be hashed is no digest
        _known_digests.__wrapped__(values)


@lru_cache(maxsize=4096)
def _known_digests(values: tuple[object, ...]) -> None:
    """Refuse what is no digest; the records of one target mostly have the same ones."""
    entry, machine, *others = values
    _check_digest("entry", entry)
    _check_digest("machine", machine)
    for name, value in zip(Digests.NAMES, others, strict=True):
        if value is not None:
            _check_digest(name, value)


def _retraction(value: object) -> Retraction:
    data = as_object(value, "a retraction")
    exact_keys(data, "a retraction", required={"who", "why"})
    return Retraction(
        who=get_text(data, "who", "a retraction"), why=get_text(data, "why", "a retraction")
    )


def _signature(value: object) -> Signature:
    data = as_object(value, "a signature")
    exact_keys(data, "a signature", required={"armour", "signer"})
    return Signature(
        signer=get_text(data, "signer", "a signature"),
        armour=get_text(data, "armour", "a signature"),
    )
