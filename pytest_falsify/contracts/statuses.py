"""The status words of the field, read as ours."""

from __future__ import annotations

REQUIRABLE = ("PARTIAL", "FUNCTIONAL", "DISCHARGED")

_ALIASES = {
    "PARTIAL_ALGORITHM_LEVEL": "PARTIAL",
    "ALGORITHM_LEVEL_DISCHARGED": "PARTIAL",
    "PARTIALLY_DISCHARGED": "PARTIAL",
    "ACTIVE_ALGORITHM_LEVEL": "PARTIAL",
    "FUNCTIONAL_DISCHARGED": "FUNCTIONAL",
    "ACTIVE_FUNCTIONAL": "FUNCTIONAL",
    "ACTIVE_RUNTIME": "FUNCTIONAL",
    "FULL_DISCHARGED": "DISCHARGED",
    "LIVE_DISCHARGED": "DISCHARGED",
    "BLOCKER_FIXTURE_ABSENT": "BLOCKED",
}
_OURS = frozenset((*REQUIRABLE, "BLOCKED", "FALSIFIED", "STALE", "UNTRIED"))


def canonical_status(text: str) -> str | None:
    """Return our word for a hand-written status, or None for one that claims nothing we know.

    Only the first word counts: people write ``DISCHARGED (see the note)``.
    """
    words = text.strip().upper().split()
    if not words:
        return None
    word = words[0].strip("`'\".,:;()").replace("-", "_")
    word = _ALIASES.get(word, word)
    return word if word in _OURS else None
