"""What one run saw of one falsifier at one target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.digests import Digests
from pytest_falsify.ledger.evidence import Evidence
from pytest_falsify.ledger.fields import as_object, exact_keys, get_text


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
