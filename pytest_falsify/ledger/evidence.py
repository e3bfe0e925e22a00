"""One immutable record: a verdict plus everything it depended on, as digests."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field, replace
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pytest_falsify.canonical import canonical, digest, digest_bytes
from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.digests import DIGEST_NAMES, NO_DIGESTS, Digests, check_digest
from pytest_falsify.ledger.fields import (
    as_object,
    exact_keys,
    get_member,
    get_text,
    get_texts,
    hold_kinds,
)
from pytest_falsify.ledger.settling import settle

if TYPE_CHECKING:
    from collections.abc import Mapping

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
_KINDS = {"target": str, "platform": str}
_NUMBERS = {"observed": dict, "coverage": dict, "faults": dict}
_SETTING = ("target", "machine", "outcome", "source", "platform", *Digests.NAMES)
_OPTIONAL = DIGEST_NAMES | {"faults", "reasons", "retracted", "signature"}


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
        digests: what the verdict depended on at its target.
        machine: digest that stands for the machine (see ``ledger.machine``).
        platform: the same in words, ``linux-x86_64, NVIDIA H200, torch 2.13.0``.
        reasons: the verdict in words, the most important first.
        observed: numbers of the verdict; floats keep three significant digits.
        coverage: how much was compared (sites, layers, tokens).
        faults: ``planted`` and ``caught`` faults; None when none were planted.
        retracted: set on a refutation that was declared wrong.
        setting: of a record that is read, whose numbers were settled when it was made.
        has_caught_all: whether faults were planted and every one of them was caught.
        ground: what else than falsifier and entry its status is computed from, spelled.
        id: digest of what makes it this piece of evidence.
        content: digest of the id and of all else it says, without retraction and signature.

    Raises:
        LedgerError: when a digest is not ``sha256:<64 hex digits>``, a retraction stands on
            something that is not a refutation, or a text cannot be written.
    """

    falsifier: str
    target: str
    entry: str
    machine: str
    outcome: Outcome
    source: Source
    platform: str = ""
    digests: Digests = NO_DIGESTS
    reasons: tuple[str, ...] = ()
    observed: Mapping[str, Any] = field(default_factory=dict)
    coverage: Mapping[str, Any] = field(default_factory=dict)
    faults: Mapping[str, Any] | None = None
    retracted: Retraction | None = None
    signature: Signature | None = None
    setting: InitVar[_Setting | None] = None
    has_caught_all: bool = field(init=False, repr=False, compare=False)
    ground: str = field(init=False, repr=False, compare=False)
    id: str = field(init=False)
    content: str = field(init=False)

    def __post_init__(self, setting: _Setting | None) -> None:
        check_digest("entry", self.entry)
        if setting is None:
            setting = self._setting()
            for name in ("observed", "coverage", "faults"):
                object.__setattr__(self, name, settle(getattr(self, name)))
        if self.retracted and self.outcome is not Outcome.REFUTED:
            msg = f"a retraction stands on evidence that {self.falsifier} {self.outcome.value}"
            raise LedgerError(msg, expected="a retraction of a refutation")
        if self.reasons:
            object.__setattr__(self, "reasons", tuple(map(settle, self.reasons)))
        object.__setattr__(self, "has_caught_all", self._has_caught_all())
        try:
            object.__setattr__(self, "ground", self._ground(setting))
            identity = f'[{canonical(self.falsifier)},"{self.entry}",{self.ground}]'
            object.__setattr__(self, "id", digest_bytes(identity.encode()))
            object.__setattr__(self, "content", digest(self._content()))
        except ValueError as error:
            msg = f"evidence of {self.falsifier!r} holds what cannot be written: {error}"
            raise LedgerError(
                msg, expected="finite numbers, and text that UTF-8 can spell"
            ) from None

    def __hash__(self) -> int:
        return hash((self.id, self.content))

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
        setting = _Setting.of(data, what)
        hold_kinds(data, what, _NUMBERS)
        evidence = cls(
            falsifier=falsifier,
            target=setting.target,
            entry=data["entry"],
            machine=setting.machine,
            outcome=setting.outcome,
            source=setting.source,
            platform=setting.platform,
            digests=setting.digests,
            reasons=get_texts(data, "reasons", what),
            observed=data["observed"],
            coverage=data["coverage"],
            faults=data.get("faults"),
            retracted=_retraction(data["retracted"]) if "retracted" in data else None,
            signature=_signature(data["signature"]) if "signature" in data else None,
            setting=setting,
        )
        if data["id"] != evidence.id or data["content"] != evidence.content:
            evidence._refuse_edits(data)
        return evidence

    def marked(self, **marks: Retraction | Signature) -> Evidence:
        """Return the record with a retraction or a signature; what it says stays as it is."""
        return replace(self, **marks, setting=self._setting())  # type: ignore[arg-type]

    @property
    def fault_counts(self) -> tuple[int, int] | None:
        """How many faults were caught and planted; None where none were to be planted."""
        if self.faults is None:
            return None
        caught, planted = self.faults.get("caught"), self.faults.get("planted")
        return (caught, planted) if isinstance(caught, int) and isinstance(planted, int) else None

    @property
    def is_bit_equal(self) -> bool:
        """Whether subject and oracle agreed in every bit."""
        return self.observed.get("bit_equal") is True

    @property
    def repeats(self) -> int:
        """How often the observation was repeated within its run."""
        repeats = self.observed.get("repeats")
        return repeats if isinstance(repeats, int) else 0

    def _has_caught_all(self) -> bool:
        counts = self.fault_counts
        return counts is not None and counts[1] > 0 and counts[0] == counts[1]

    @property
    def caveats(self) -> tuple[str, ...]:
        """What keeps the observation from discharging a claim, in words."""
        caveats = self.observed.get("caveats")
        return tuple(map(str, caveats)) if isinstance(caveats, list) else ()

    def _setting(self) -> _Setting:
        return _Setting(
            target=self.target,
            machine=self.machine,
            outcome=self.outcome,
            source=self.source,
            platform=self.platform,
            digests=self.digests,
        )

    def _ground(self, setting: _Setting) -> str:
        """All that a status is computed from: where two records differ in it, both count.

        Else the union of two sets would depend on which of two equal ids it kept.
        """
        return _spelled(
            setting.spelled, self.has_caught_all, self.is_bit_equal, self.repeats, *self.caveats
        )

    def _content(self) -> list[Any]:
        return [
            self.id,
            self.platform,
            self.reasons,
            self.observed,
            self.coverage,
            self.faults,
        ]

    def _refuse_edits(self, data: Mapping[str, Any]) -> None:
        for name, computed in (("id", self.id), ("content", self.content)):
            if data[name] != computed:
                msg = f"the {name} of evidence of {self.falsifier} on {self.target} does not match"
                raise LedgerError(
                    msg,
                    expected=f"{computed}, the digest of what the record says",
                    remedy="restore the file from git; evidence is recorded by runs, not by hand",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """What many records of a ledger share: where and with what a claim was tried, and the outcome.

    Attributes:
        spelled: all of it, as members of canonical JSON.
    """

    target: str
    machine: str
    outcome: Outcome
    source: Source
    platform: str
    digests: Digests
    spelled: str = field(init=False)

    def __post_init__(self) -> None:
        check_digest("machine", self.machine)
        self.digests.refuse_dispute()
        members = (
            self.target,
            *self.digests.values(),
            self.machine,
            self.outcome.value,
            self.source.value,
            self.platform,
        )
        object.__setattr__(self, "spelled", canonical(members)[1:-1])

    @classmethod
    def of(cls, data: Mapping[str, Any], what: str) -> _Setting:
        """Return the setting of a record that is read; equal ones are one object."""
        values = tuple(map(data.get, _SETTING))
        try:
            return _shared_setting(values)
        except (LedgerError, TypeError):  # told again by the name of the falsifier
            return _setting(values, what)


def _setting(values: tuple[Any, ...], what: str) -> _Setting:
    data = dict(zip(_SETTING, values, strict=True))
    hold_kinds(data, what, _KINDS)
    return _Setting(
        target=data["target"],
        machine=data["machine"],
        outcome=get_member(data, "outcome", what, Outcome),
        source=get_member(data, "source", what, Source),
        platform=data["platform"],
        digests=Digests.of(map(data.get, Digests.NAMES)),
    )


@lru_cache(maxsize=4096)
def _shared_setting(values: tuple[Any, ...]) -> _Setting:
    return _setting(values, "evidence")


@lru_cache(maxsize=4096, typed=True)  # typed: 1 is not spelled like true
def _spelled(setting: str, *ground: bool | int | str) -> str:
    """Return the canonical spelling of a setting and of more members."""
    return f"{setting},{canonical(ground)[1:-1]}"


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
