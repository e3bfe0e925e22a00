"""Evidence made from verdicts: what was concluded and the digests of what it depended on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_falsify.canonical import digest
from pytest_falsify.contracts.digest import entry_digest
from pytest_falsify.contracts.model import Level
from pytest_falsify.engines.recorded import is_replay
from pytest_falsify.ledger.digests import Digests
from pytest_falsify.ledger.evidence import Evidence, Outcome, Source
from pytest_falsify.ledger.machine import machine_id, platform_words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_falsify.checks.base import Captures
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.verdict import Verdict

NOTHING = Digests()
SOURCES = {Level.ALGORITHM: Source.ALGORITHM, Level.LIVE: Source.LIVE}


def evidence_of(
    claim: Claim, verdict: Verdict, captures: Captures, known: Digests = NOTHING
) -> Evidence:
    """Return the evidence of a verdict on captures that were really made.

    Args:
        claim: what was tried.
        verdict: what it came to.
        captures: what was judged.
        known: the digests of what is declared; see ``checks.declared``.
    """
    identities = {request.role: set[str]() for request in captures}
    for request, capture in captures.items():
        identities[request.role].add(capture.identity.digest)
    return Evidence(
        falsifier=claim.falsifier.id,
        target=claim.target.name,
        entry=entry_digest(claim.contract, claim.falsifier),
        digests=replace(
            known,
            subject=verdict.subject or _digest_of(identities.get("subject", ())),
            oracle=_digest_of((*identities.get("oracle", ()), *identities.get("control", ()))),
            inputs=_digest_of({capture.inputs.digest for capture in captures.values()}),
        ),
        machine=machine_id(servers={each.machine for each in captures.values() if each.machine}),
        platform=_platform(captures),
        outcome=verdict.outcome,
        source=_source(claim, captures),
        reasons=verdict.reasons,
        observed={**verdict.observed, **_caveats(captures)},
        coverage=verdict.coverage,
        faults=verdict.faults,
    )


def blocked(claim: Claim, reason: str, known: Digests = NOTHING) -> Evidence:
    """Return the evidence of a claim that could not be tried here."""
    return Evidence(
        falsifier=claim.falsifier.id,
        target=claim.target.name,
        entry=entry_digest(claim.contract, claim.falsifier),
        digests=known,
        machine=machine_id(),
        platform=platform_words(),
        outcome=Outcome.BLOCKED,
        source=SOURCES[claim.target.level],
        reasons=(reason,),
        observed={},
        coverage={},
    )


def _caveats(captures: Captures) -> dict[str, list[str]]:
    """Return what keeps the captures from discharging a claim, as observed."""
    found = {caveat for each in captures.values() for caveat in each.caveats}
    return {"caveats": sorted(found)} if found else {}


def _source(claim: Claim, captures: Captures) -> Source:
    """Return what the evidence is worth: one replayed capture makes all of it recorded."""
    if any(is_replay(capture.identity) for capture in captures.values()):
        return Source.RECORDED
    return SOURCES[claim.target.level]


def _platform(captures: Captures) -> str:
    identities = [capture.identity for capture in captures.values()]
    libraries = {name: each for one in identities for name, each in one.versions.items()}
    devices = {each.device_name for each in identities if each.device != "cpu"}
    return platform_words(devices, libraries)


def _digest_of(digests: Iterable[str]) -> str | None:
    found = sorted(digests)
    if len(found) == 1:
        return found[0]
    return digest(found) if found else None
