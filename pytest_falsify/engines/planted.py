"""A fault planted in a run on purpose, so that a contract can show that it would be found.

It is made where it stands and spreads from there, as a fault of the engine's own would.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_falsify.engines.grafting import HEADS, written
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch

    from pytest_falsify.stages.family import Family

FACTOR = 1.03


def _heads_exchanged(value: torch.Tensor) -> torch.Tensor:
    """Exchange the first two heads: (batch, tokens, heads, channels)."""
    return value[:, :, [1, 0, *range(2, value.shape[2])]]


def _channel_negated(value: torch.Tensor) -> torch.Tensor:
    found = value.clone()
    found[..., found.shape[-1] // 2] *= -1
    return found


FAULTS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "heads exchanged": _heads_exchanged,
    "tokens shifted by one": lambda value: value.roll(1, 1),
    "scaled by 1.03": lambda value: value * FACTOR,
    "one channel negated": _channel_negated,
}
OF_HEADS = frozenset({"heads exchanged"})

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "plant a fault in the run, to show that a check finds it",
    "properties": {
        "site": {"type": "string", "description": "where, of the prefill: 0/3/attn_out"},
        "fault": {"enum": [*FAULTS]},
    },
    "required": ["site", "fault"],
    "additionalProperties": False,
}


@contextmanager
def planted(model: Any, family: Family, plant: Mapping[str, str]) -> Iterator[None]:
    """Plant a fault while a model runs.

    Args:
        model: a model of transformers.
        family: where its stages are.
        plant: ``site`` and ``fault``, as ``SCHEMA`` says.

    Raises:
        CaptureError: when the site has no such fault, or cannot be written to.
    """
    site = Site.parse(plant["site"])
    if plant["fault"] in OF_HEADS and site.stage not in HEADS:
        msg = f"{site} has no heads to exchange"
        raise CaptureError(msg, expected=f"one of {', '.join(HEADS)}")
    change = FAULTS[plant["fault"]]
    with written(model, family, {site: lambda value, _part: change(value)}):
        yield
