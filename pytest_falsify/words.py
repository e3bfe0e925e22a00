"""Numbers with their nouns, as people read them."""

from __future__ import annotations


def number_of(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun: ``1 site``, ``2 sites``.

    Args:
        count: how many.
        one: what follows the number 1: ``site``, ``site differs``.
        many: what follows any other number: ``sites differ``; empty: ``one`` and an `s`.
    """
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def number_are(count: int, noun: str) -> str:
    """Return a number with its noun and verb: ``1 site is``, ``2 sites are``."""
    return number_of(count, f"{noun} is", f"{noun}s are")
