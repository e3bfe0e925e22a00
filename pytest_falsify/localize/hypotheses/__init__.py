"""The known faults, one table a kind of operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.localize.hypotheses.attention import ATTENTION
from pytest_falsify.localize.hypotheses.experts import EXPERTS
from pytest_falsify.localize.hypotheses.layout import LAYOUT
from pytest_falsify.localize.hypotheses.pointwise import FITTED, POINTWISE
from pytest_falsify.localize.hypotheses.rotary import ROTARY
from pytest_falsify.localize.hypotheses.weights import WEIGHTS

if TYPE_CHECKING:
    from pytest_falsify.localize.trial import Hypothesis

HYPOTHESES: tuple[Hypothesis, ...] = (
    *ROTARY,
    *ATTENTION,
    *EXPERTS,
    *LAYOUT,
    *WEIGHTS,
    *POINTWISE,
    *FITTED,
)
