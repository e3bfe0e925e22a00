"""The fixtures, for falsifiers and for ordinary tests alike. Each can be overridden in a conftest.

Captures are made in fixtures and compared in the item's body, so that pytest itself tells
"could not observe" (ERROR) from "observed and refuted" (FAILED).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from pytest_falsify._permission import may_run_commands
from pytest_falsify.errors import Blocked, ContractError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_falsify._maker import CaptureMaker
    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.captures.pool import CapturePool
    from pytest_falsify.checks.base import Captures
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.inside import Sessions
    from pytest_falsify.checks.survey import Survey
    from pytest_falsify.compare.comparison import Comparison
    from pytest_falsify.contracts.model import Target

TARGET_MARK = "falsify_target"


def claim_of(node: Any) -> Claim | None:
    """Return the claim of a falsifier item, or None for an ordinary test."""
    return getattr(node, "claim", None)


@pytest.fixture
def falsify_target(request: pytest.FixtureRequest) -> Target:
    """Where the claim is tried.

    For a falsifier it is the contract's target. An ordinary test says it with
    ``@pytest.mark.falsify_target(model="models/mine", device="cpu")``.
    """
    from pytest_falsify._marked import target_of

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
    return target_of(mark, name=request.node.name)


@pytest.fixture
def falsify_device(request: pytest.FixtureRequest, falsify_target: Target) -> Iterator[str]:
    """The device that the target runs on: ``cpu`` or ``cuda:N``. Absent: the test is skipped.

    Workers of pytest-xdist that share a CUDA device have it one after the other.
    """
    from pytest_falsify._device import device_in_use

    with ExitStack() as stack:
        try:
            device = stack.enter_context(device_in_use(falsify_target, request.config))
        except Blocked as error:
            pytest.skip(error.one_line)
        yield device


@pytest.fixture(scope="session")
def falsify_pool(pytestconfig: pytest.Config) -> CapturePool:
    """The loaded models and the captures of this session."""
    from pytest_falsify._captures import capture_cache
    from pytest_falsify.captures.pool import CapturePool

    return CapturePool(cache=capture_cache(pytestconfig))


@pytest.fixture
def falsify_capture(
    request: pytest.FixtureRequest,
    falsify_target: Target,
    falsify_device: str,
    falsify_pool: CapturePool,
) -> CaptureMaker:
    """A callable that makes captures on the target; see ``CaptureMaker``."""
    from pytest_falsify._maker import CaptureMaker

    claim = claim_of(request.node)
    root = claim.contract.path.parent if claim else request.path.parent
    return CaptureMaker(
        target=falsify_target,
        device=falsify_device,
        pool=falsify_pool,
        root=root,
        claim=claim,
        may_run_commands=may_run_commands(request.config),
    )


@pytest.fixture
def falsify_survey(request: pytest.FixtureRequest, falsify_capture: CaptureMaker) -> Survey | None:
    """What came of every prompt of a dataset; None where a falsifier's check asks for none."""
    from pytest_falsify.checks.registry import check
    from pytest_falsify.checks.survey import JudgesPrompts

    claim = claim_of(request.node)
    kind: object = check(claim.check.kind) if claim else None
    if claim is None or not isinstance(kind, JudgesPrompts):
        return None
    from pytest_falsify._surveying import surveyed

    sessions = {
        each.capture: falsify_capture.session(each.capture) for each in kind.requests(claim)
    }
    try:
        return surveyed(claim, kind, sessions, request.config)
    except Blocked as error:
        pytest.skip(error.one_line)


@pytest.fixture
def falsify_captures(
    request: pytest.FixtureRequest,
    falsify_capture: CaptureMaker,
    falsify_survey: Survey | None,
) -> Captures:
    """The captures that a falsifier's check asks for, in the layout that it states."""
    from pytest_falsify._maker import requested
    from pytest_falsify.checks.aligning import aligned_captures
    from pytest_falsify.checks.registry import check

    claim = claim_of(request.node)
    if claim is None:
        msg = "`falsify_captures` serves falsifiers only"
        raise ContractError(msg, remedy="use `falsify_capture` in an ordinary test")
    if falsify_survey is not None:
        return falsify_survey.captures
    captures = requested(falsify_capture, check(claim.check.kind).requests(claim))
    return aligned_captures(claim, captures)


@pytest.fixture
def falsify_sessions(request: pytest.FixtureRequest, falsify_capture: CaptureMaker) -> Sessions:
    """The loaded models that a falsifier's check looks into, by the names of their captures."""
    from pytest_falsify.checks.inside import JudgesInside
    from pytest_falsify.checks.registry import check

    claim = claim_of(request.node)
    kind: object = check(claim.check.kind) if claim else None
    if claim is None or not isinstance(kind, JudgesInside):
        return {}
    return {name: falsify_capture.session(name) for name in kind.sessions(claim)}


@pytest.fixture
def falsify_compare() -> Callable[[Capture, Capture], Comparison]:
    """A callable that compares the subject's capture (first) with the oracle's (second)."""
    from pytest_falsify.compare.comparison import compare_captures

    return compare_captures
