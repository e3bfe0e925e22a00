"""Evidence as in-toto test-result statements, for those who sign and collect attestations.

Statement v1 and predicate test-result v0.1 of github.com/in-toto/attestation. Subjects are matched
by digest alone, so there is one statement for each implementation on trial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.ledger.evidence import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_falsify.ledger.block import Ledger
    from pytest_falsify.ledger.evidence import Evidence

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"


def statements(ledger: Ledger) -> tuple[dict[str, Any], ...]:
    """Return one statement for each subject that has fresh, decisive evidence, by digest.

    Everything stale, blocked, inconclusive or retracted is left out: it says nothing of a subject.
    """
    subjects: dict[str, list[Evidence]] = {}
    for block in ledger.blocks.values():
        for each in block.evidence:
            is_meant = block.is_fresh(each) and each.outcome.is_decisive and not each.retracted
            if is_meant and each.digests.subject is not None:
                subjects.setdefault(each.digests.subject, []).append(each)
    return tuple(_statement(ledger.contract, *each) for each in sorted(subjects.items()))


def _statement(contract: str, subject: str, evidence: Sequence[Evidence]) -> dict[str, Any]:
    failed = _names(evidence, Outcome.REFUTED)
    passed = [name for name in _names(evidence, Outcome.HELD) if name not in failed]
    return {
        "_type": STATEMENT,
        "predicate": {
            "configuration": _configuration(contract, evidence),
            "failedTests": failed,
            "passedTests": passed,
            "result": "FAILED" if failed else "PASSED",
        },
        "predicateType": PREDICATE,
        "subject": [_resource(" ".join(sorted({each.target for each in evidence})), subject)],
    }


def _names(evidence: Sequence[Evidence], outcome: Outcome) -> list[str]:
    return sorted({f"{e.falsifier}[{e.target}]" for e in evidence if e.outcome is outcome})


def _configuration(contract: str, evidence: Sequence[Evidence]) -> list[dict[str, Any]]:
    entries = sorted({(each.falsifier, each.entry) for each in evidence})
    return [_resource(f"{contract}::{falsifier}", entry) for falsifier, entry in entries]


def _resource(name: str, digest: str) -> dict[str, Any]:
    return {"digest": {"sha256": digest.removeprefix("sha256:")}, "name": name}
