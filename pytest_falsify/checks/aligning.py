"""Captures brought into one layout before a check sees them: a claim's ``align``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.compare.alignment import aligned, parse_alignments

if TYPE_CHECKING:
    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.base import Captures, Request
    from pytest_falsify.checks.claim import Claim


def aligned_captures(claim: Claim, captures: Captures) -> Captures:
    """Return the captures of a claim after the steps that it states for each side.

    Raises:
        ContractError: when a step concerns nothing.
        AlignmentError: when a tensor has not the layout that a step expects.
    """
    stated = claim.parameter("align")
    if not stated:
        return captures
    alignments = parse_alignments(stated)
    groups: dict[tuple[str, int], dict[str, tuple[Request, Capture]]] = {}
    for request, capture in captures.items():
        groups.setdefault((request.input, request.run), {})[request.role] = request, capture
    found: dict[Request, Capture] = {}
    for group in groups.values():
        sides = aligned({role: capture for role, (_, capture) in group.items()}, alignments)
        found |= {request: sides[role] for role, (request, _) in group.items()}
    return found
