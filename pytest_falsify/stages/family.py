"""The model families that are known. A new one is one more module in ``families``."""

from __future__ import annotations

from typing import Any

from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.adapter import Family, Tap
from pytest_falsify.stages.families.gated import GATED
from pytest_falsify.stages.families.gemma3 import GEMMA3
from pytest_falsify.stages.families.gpt2 import GPT2
from pytest_falsify.stages.families.moe import MIXTRAL, OLMOE, QWEN2_MOE, QWEN3_MOE
from pytest_falsify.stages.families.phi3 import PHI3

__all__ = ["FAMILIES", "Family", "Tap", "family_for", "family_of"]

FAMILIES = (GATED, GEMMA3, PHI3, GPT2, OLMOE, QWEN2_MOE, QWEN3_MOE, MIXTRAL)


def family_of(model_type: str) -> Family | None:
    """Return the family of a transformers ``model_type``, or None when none is known."""
    return next((each for each in FAMILIES if model_type in each.model_types), None)


def family_for(config: Any) -> Family | None:
    """Return the family of a model's configuration, or None when none is known.

    Raises:
        CaptureError: when a setting makes the model compute in a way its family does not describe.
    """
    family = family_of(config.model_type)
    for setting in family.excludes if family else ():
        if getattr(config, setting, False):
            msg = f"the stages of a `{config.model_type}` with `{setting}` on are not described"
            raise CaptureError(msg, expected=f"`{setting}` off, as its published models have it")
    return family
