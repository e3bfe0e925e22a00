"""The fixtures, for falsifiers and for ordinary tests alike. Each can be overridden in a conftest.

Captures are made in fixtures and compared in the item's body, so that pytest itself tells
"could not observe" (ERROR) from "observed and refuted" (FAILED).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_falsify.errors import Blocked, ContractError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_falsify.captures.capture import Capture, TokenInputs
    from pytest_falsify.captures.pool import CapturePool
    from pytest_falsify.checks.base import Captures
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.compare.comparison import Comparison
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.engines.base import Session

TARGET_MARK = "falsify_target"
REMEDY = "; to mend: "


def claim_of(node: Any) -> Claim | None:
    """Return the claim of a falsifier item, or None for an ordinary test."""
    return getattr(node, "claim", None)


@pytest.fixture
def falsify_target(request: pytest.FixtureRequest) -> Target:
    """Where the claim is tried.

    For a falsifier it is the contract's target. An ordinary test says it with
    ``@pytest.mark.falsify_target(model="models/mine", device="cpu")``.
    """
    from pytest_falsify.contracts.model import Target

    claim = claim_of(request.node)
    if claim is not None:
        return claim.target
    mark = request.node.get_closest_marker(TARGET_MARK)
    if mark is None:
        msg = "this test has no target"
        raise ContractError(
            msg,
            expected=f'@pytest.mark.{TARGET_MARK}(model="folder or hub name", device="cpu")',
            remedy="add the mark, or override the fixture `falsify_target`",
        )
    return Target(**{"name": request.node.name, "line": 0, **mark.kwargs})


@pytest.fixture
def falsify_device(falsify_target: Target) -> str:
    """The device that the target runs on: ``cpu`` or ``cuda:N``. Absent: the test is skipped."""
    from pytest_falsify.engines.device import resolve_device

    try:
        return resolve_device(falsify_target)
    except Blocked as error:
        pytest.skip(_one_line(error))


@pytest.fixture(scope="session")
def falsify_pool() -> CapturePool:
    """The loaded models and the captures of this session."""
    from pytest_falsify.captures.pool import CapturePool

    return CapturePool()


@pytest.fixture
def falsify_capture(
    request: pytest.FixtureRequest,
    falsify_target: Target,
    falsify_device: str,
    falsify_pool: CapturePool,
) -> CaptureMaker:
    """A callable that makes captures on the target; see ``CaptureMaker``."""
    claim = claim_of(request.node)
    root = claim.contract.path.parent if claim else request.path.parent
    return CaptureMaker(
        target=falsify_target, device=falsify_device, pool=falsify_pool, root=root, claim=claim
    )


@pytest.fixture
def falsify_captures(request: pytest.FixtureRequest, falsify_capture: CaptureMaker) -> Captures:
    """The captures that a falsifier's check asks for."""
    from pytest_falsify.checks.registry import check

    claim = claim_of(request.node)
    if claim is None:
        msg = "`falsify_captures` serves falsifiers only"
        raise ContractError(msg, remedy="use `falsify_capture` in an ordinary test")
    return {
        each: falsify_capture(
            each.capture,
            each.input,
            stages=each.plan.stages,
            layers=each.plan.layers,
            decode_steps=each.plan.decode_steps,
            is_fresh=each.is_fresh,
        )
        for each in check(claim.check.kind).requests(claim)
    }


@pytest.fixture
def falsify_compare() -> Callable[[Capture, Capture], Comparison]:
    """A callable that compares the subject's capture (first) with the oracle's (second)."""
    from pytest_falsify.compare.comparison import compare_captures

    return compare_captures


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureMaker:
    """Makes captures on one target."""

    target: Target
    device: str
    pool: CapturePool
    root: Path
    claim: Claim | None = None

    def __call__(
        self,
        capture: str | Mapping[str, Any],
        inputs: str | Sequence[int],
        *,
        stages: Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
        decode_steps: int = 0,
        is_fresh: bool = False,
    ) -> Capture:
        """Run the model and return what was seen.

        Args:
            capture: the name of a capture of the contract, or its options as a mapping, for
                example ``{"engine": "transformers", "dtype": "bfloat16"}``.
            inputs: the name of an input of the contract, else a text, or token ids.
            stages: the stages to observe; None is all that the engine can show, ``()`` none.
            layers: the layers to observe; None is all.
            decode_steps: how many greedy tokens to decode after the prefill.
            is_fresh: run the model anew instead of sharing a capture at hand.

        Raises:
            FalsifyError: when it could not be made. What is absent here skips the test.
        """
        spec = self._spec(capture)
        try:
            return self._capture(spec, inputs, stages, layers, decode_steps, is_fresh=is_fresh)
        except Blocked as error:
            pytest.skip(_one_line(error))

    def _capture(
        self,
        spec: CaptureSpec,
        inputs: str | Sequence[int],
        stages: Sequence[str] | None,
        layers: Sequence[int] | None,
        decode_steps: int,
        *,
        is_fresh: bool,
    ) -> Capture:
        from pytest_falsify.captures.plan import Plan
        from pytest_falsify.stages.vocabulary import canonical

        session = self.pool.session(self.target, spec, root=self.root, device=self.device)
        plan = Plan(
            stages=None if stages is None else tuple(canonical(each) for each in stages),
            layers=None if layers is None else tuple(layers),
            decode_steps=decode_steps,
        )
        return self.pool.capture(session, self._inputs(inputs, session), plan, is_fresh=is_fresh)

    def _spec(self, capture: str | Mapping[str, Any]) -> CaptureSpec:
        from pytest_falsify.contracts.model import CaptureSpec

        if isinstance(capture, Mapping):
            options = {key: value for key, value in capture.items() if key != "engine"}
            engine = capture.get("engine", "transformers")
            return CaptureSpec(name="inline", engine=engine, line=0, options=options)
        known = self.claim.contract.captures if self.claim else {}
        if capture not in known:
            msg = f"unknown capture `{capture}`"
            raise ContractError(msg, expected=f"one of {', '.join(known) or 'none'}, or a mapping")
        return known[capture]

    def _inputs(self, inputs: str | Sequence[int], session: Session) -> TokenInputs:
        from pytest_falsify.captures.capture import TokenInputs
        from pytest_falsify.captures.pool import token_inputs
        from pytest_falsify.contracts.model import InputSpec

        if not isinstance(inputs, str):
            return TokenInputs(name="tokens", tokens=tuple(inputs))
        known = self.claim.contract.inputs if self.claim else {}
        spec = known.get(inputs) or InputSpec(name="text", line=0, text=inputs)
        return token_inputs(spec, session, self.root)


def _one_line(error: Blocked) -> str:
    return f"{error.what}{REMEDY}{error.remedy}" if error.remedy else error.what
