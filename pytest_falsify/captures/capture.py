"""A capture in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_falsify.canonical import digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.captures.shortlist import Shortlists
    from pytest_falsify.captures.sketch import Sketch
    from pytest_falsify.stages.vocabulary import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What ran: everything that decides the numbers, and nothing that does not.

    Attributes:
        engine: the engine's name.
        versions: the versions of the engine and of the libraries that compute.
        weights: the digest of the weights, ``sha256:...``.
        settings: dtype, attention, threads, configuration overrides.
        device: the kind of device, ``cpu`` or ``cuda``.
        device_name: the device as its maker names it; readable, not part of the digest.
    """

    engine: str
    versions: Mapping[str, str]
    weights: str
    settings: Mapping[str, Any]
    device: str
    device_name: str = ""

    @property
    def digest(self) -> str:
        """``sha256:...`` of what ran."""
        return digest(
            {
                "device": self.device,
                "engine": self.engine,
                "settings": dict(self.settings),
                "versions": dict(self.versions),
                "weights": self.weights,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInputs:
    """What the model was fed.

    Attributes:
        name: the input's name in the contract.
        tokens: the token ids of one sequence.
        forced: the tokens that decode steps are fed, in order; empty: each is fed the greedy token
            of the step before.
    """

    name: str
    tokens: tuple[int, ...]
    forced: tuple[int, ...] = ()

    @property
    def digest(self) -> str:
        """``sha256:...`` of the token ids alone: a renamed input is the same input."""
        if self.forced:
            return digest({"forced": list(self.forced), "tokens": list(self.tokens)})
        return digest(list(self.tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedTensor:
    """One tensor with what is needed to compare it honestly.

    Attributes:
        array: the values in the dtype they were computed in (``ml_dtypes`` for bfloat16).
        dims: its axes, for example ``"t d"``; see ``stages.vocabulary.Stage``.
        positions: the token positions along its ``t`` axis.
        mask: how masked places are filled: ``none``, or the engine's own word.
        sketch: how the values were reduced to random projections, or None: they are as computed.
    """

    array: np.ndarray[Any, Any]
    dims: str
    positions: tuple[int, ...]
    mask: str = "none"
    sketch: Sketch | None = None

    def describe(self) -> str:
        """Return dims, shape, dtype and positions on one line, for messages."""
        shape = "x".join(map(str, self.array.shape))
        tokens = _spans(self.positions)
        return f"dims `{self.dims}`, shape {shape} {self.array.dtype}, tokens {tokens}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """The tensors of one run.

    Attributes:
        tensors: what was observed, by site, in causal order.
        missing: the planned sites that the engine did not show.
        logits: the logits that the run returned, one array a step: step 0 ``(tokens, vocab)``,
            decode steps ``(1, vocab)``. They are the run's answer, not an observation.
        continuation: the greedy tokens, one a decode step.
        shortlists: what a server told in place of logits, one tuple a step; None: it has logits.
        caveats: in words, what keeps the run from discharging a claim.
        machine: the digest of the machine that computed it, where that was not this one.
    """

    identity: Identity
    inputs: TokenInputs
    plan: Plan
    tensors: Mapping[Site, CapturedTensor]
    logits: tuple[np.ndarray[Any, Any], ...]
    continuation: tuple[int, ...] = ()
    missing: tuple[Site, ...] = field(default=())
    shortlists: Shortlists | None = None
    caveats: tuple[str, ...] = ()
    machine: str | None = None

    @property
    def nbytes(self) -> int:
        """The bytes that its tensors and logits take."""
        arrays = [each.array for each in self.tensors.values()]
        return sum(array.nbytes for array in (*arrays, *self.logits))

    def restricted(self, plan: Plan, layer_count: int) -> Capture:
        """Return the part of this capture that a smaller plan asks for."""
        wanted = set(plan.sites(layer_count))
        return replace(
            self,
            plan=plan,
            tensors={site: each for site, each in self.tensors.items() if site in wanted},
            missing=tuple(site for site in self.missing if site in wanted),
        )


def _spans(positions: tuple[int, ...]) -> str:
    if positions == tuple(range(positions[0], positions[0] + len(positions))) if positions else ():
        return f"{positions[0]}..{positions[-1]}"
    return ",".join(map(str, positions)) or "none"
