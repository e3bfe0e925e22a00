"""The model families that are known. A new one is one more module in ``families``."""

from __future__ import annotations

from pytest_falsify.stages.adapter import Family, Tap
from pytest_falsify.stages.families.gated import GATED

__all__ = ["FAMILIES", "Family", "Tap", "family_of"]

FAMILIES = (GATED,)


def family_of(model_type: str) -> Family | None:
    """Return the family of a transformers ``model_type``, or None when none is known."""
    return next((each for each in FAMILIES if model_type in each.model_types), None)
