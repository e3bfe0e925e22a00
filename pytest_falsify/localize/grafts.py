"""Causal proof: the oracle's tensor put into the subject at a site, and what that changes.

If the difference of the logits goes away with one tensor, that tensor brought it. A guilty site
that is grafted and changes nothing is guilty of something else than the divergence one sees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.errors import CaptureError
from pytest_falsify.localize.evaluation import in_stage_order, to_torch

if TYPE_CHECKING:
    import torch

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.engines.grafting import Write
    from pytest_falsify.stages.vocabulary import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Graft:
    """What became of the logits when one site had the other side's tensor.

    Attributes:
        before: the relative L2 difference of the logits without the graft.
        after: with it.
    """

    site: Site
    before: float
    after: float

    @property
    def share(self) -> float:
        """How much of the difference the graft takes away: 1 is all of it."""
        return 1.0 - self.after / self.before if self.before > 0 else 0.0

    def __str__(self) -> str:
        return (
            f"the oracle's {self.site} in the subject takes {self.share:.0%} of the difference of "
            f"the logits away ({self.before:.1e} -> {self.after:.1e})"
        )


def graft(session: Any, receiver: Capture, donor: Capture, site: Site) -> Graft:
    """Run a session with another run's tensor at a site.

    With the subject's session, the oracle as donor and the difference to the oracle, it tells how
    much of the divergence that site brings. The reverse, the oracle's session with the subject as
    donor, makes the divergence there.

    Args:
        session: of the transformers engine.
        receiver: what the session showed without the graft.
        donor: the run that gives the tensor, and that the logits are compared with.
        site: of the prefill.

    Raises:
        CaptureError: when the engine cannot be written into, or the donor lacks the site.
    """
    if not hasattr(session, "writes"):
        msg = "only the transformers engine can be written into"
        raise CaptureError(msg, expected="a session of the transformers engine")
    if site not in donor.tensors or site.step != 0:
        msg = f"there is no {site} to be grafted"
        raise CaptureError(msg, expected="a captured site of the prefill")
    value = to_torch(in_stage_order(site, donor.tensors[site]).array, session.model)
    changed = replace(session, writes={site: _once(value)})
    grafted = record(changed, receiver.inputs, Plan())
    return Graft(
        site=site,
        before=_difference(receiver, donor),
        after=_difference(grafted, donor),
    )


def _once(value: torch.Tensor) -> Write:
    """Return what writes a tensor into the prefill, and nothing into the steps after it."""

    def write(there: torch.Tensor, part: slice) -> torch.Tensor | None:
        return value[None, ..., part] if there.shape[1] == value.shape[0] else None

    return write


def _difference(one: Capture, other: Capture) -> float:
    mine, theirs = (each.logits[0].astype(np.float64) for each in (one, other))
    size = float(np.linalg.norm(theirs))
    return float(np.linalg.norm(mine - theirs)) / size if size > 0 else 0.0
