"""Models loaded once and captures made once, however many falsifiers ask for them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.record import record
from pytest_falsify.engines.registry import engine
from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_falsify.captures.cache import CaptureCache
    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.contracts.model import CaptureSpec, InputSpec, Target
    from pytest_falsify.engines.base import Session

    _Run = tuple[str, str, str, int, tuple[int, ...] | None]

MAX_SESSIONS = 4
MAX_BYTES = 2 << 30


class CapturePool:
    """Loaded sessions and their captures, the least recently used given up first.

    Args:
        max_sessions: how many models stay loaded.
        max_bytes: how many bytes of captured tensors stay in memory.
        cache: where other processes leave captures, if anywhere.
    """

    def __init__(
        self,
        *,
        max_sessions: int = MAX_SESSIONS,
        max_bytes: int = MAX_BYTES,
        cache: CaptureCache | None = None,
    ) -> None:
        self._cache = cache
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._captures: OrderedDict[_Run, Capture] = OrderedDict()
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes

    def session(self, target: Target, spec: CaptureSpec, *, root: Path, device: str) -> Session:
        """Return the loaded model of a capture; see ``Engine.load`` for what is raised."""
        key = repr((target.model, target.revision, str(root), device, spec.engine, spec.options))
        if key not in self._sessions:
            while len(self._sessions) >= self._max_sessions:
                self._sessions.popitem(last=False)
            found = engine(spec.engine).load(target, spec, root=root, device=device)
            self._sessions[key] = found
        self._sessions.move_to_end(key)
        return self._sessions[key]

    def capture(
        self, session: Session, inputs: TokenInputs, plan: Plan, *, is_fresh: bool = False
    ) -> Capture:
        """Return a capture that covers the plan, running the model only where none does yet.

        Args:
            session: the loaded model.
            inputs: what it is fed.
            plan: what is observed.
            is_fresh: run it again even when a capture is at hand, and keep no copy.
        """
        plan = plan.resolved(session.stages)
        if is_fresh:
            return record(session, inputs, plan)
        place = getattr(session, "place", "")
        key = (session.identity().digest, place, inputs.digest, plan.decode_steps, plan.chosen)
        known = self._captures.get(key)
        if known is None or not known.plan.covers(plan):
            make = self._cache.capture if self._cache else record
            known = make(session, inputs, known.plan.union(plan) if known else plan)
            self._captures[key] = known
            self._shrink()
        self._captures.move_to_end(key)
        return known.restricted(plan, session.layer_count)

    def _shrink(self) -> None:
        sizes = {key: capture.nbytes for key, capture in self._captures.items()}
        total = sum(sizes.values())
        for key in list(self._captures)[:-1]:
            if total <= self._max_bytes:
                return
            del self._captures[key]
            total -= sizes[key]


def token_inputs(spec: InputSpec, session: Session, root: Path) -> TokenInputs:
    """Return the token ids of an input: given, or made by the model's tokenizer.

    Raises:
        CaptureError: when the named file cannot be read, or it is a dataset.
    """
    if spec.dataset is not None:
        msg = f"input `{spec.name}` is a dataset, and not one prompt"
        raise CaptureError(msg, remedy="pytest-falsify prompt runs one prompt of a dataset")
    if spec.tokens is not None:
        return TokenInputs(name=spec.name, tokens=spec.tokens, forced=spec.forced)
    text = spec.text if spec.file is None else _read(spec, root / spec.file)
    return TokenInputs(name=spec.name, tokens=session.encode(text or ""), forced=spec.forced)


def _read(spec: InputSpec, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        msg = f"input `{spec.name}`: the file {spec.file} could not be read: {error}"
        raise CaptureError(
            msg, expected="a text file in UTF-8, relative to the contract"
        ) from error
