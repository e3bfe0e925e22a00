"""What the fixture ``falsify_capture`` gives: a callable that makes captures on one target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_falsify._loading import must_be_options
from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.pool import token_inputs
from pytest_falsify.captures.record import record
from pytest_falsify.contracts.model import CaptureSpec, InputSpec
from pytest_falsify.engines.registry import engine, runs_commands
from pytest_falsify.errors import Blocked, CaptureError, ContractError, FalsifyError
from pytest_falsify.stages.vocabulary import TRANSFER, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.captures.pool import CapturePool
    from pytest_falsify.checks.base import Request
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.contracts.model import Target
    from pytest_falsify.engines.base import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureMaker:
    """Makes captures on one target."""

    target: Target
    device: str
    pool: CapturePool
    root: Path
    claim: Claim | None = None
    may_run_commands: bool = False

    def __call__(
        self,
        capture: str | Mapping[str, Any],
        inputs: str | Sequence[int],
        *,
        stages: Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
        decode_steps: int = 0,
        forced: Sequence[int] = (),
        positions: Sequence[int] | None = None,
        needs_answer: bool = True,
        has_transfer: bool = False,
        is_fresh: bool = False,
        options: Mapping[str, Any] | None = None,
        prefilled: int | None = None,
        resumes: Capture | None = None,
        sent: bool = False,
    ) -> Capture:
        """Run the model and return what was seen.

        Args:
            capture: the name of a capture of the contract, or its options as a mapping, for
                example ``{"engine": "transformers", "dtype": "bfloat16"}``.
            inputs: the name of an input of the contract, else a text, or token ids.
            stages: the stages to observe; None is all that the engine can show, ``()`` none.
            layers: the layers to observe; None is all.
            decode_steps: how many tokens to decode after the prefill.
            forced: the tokens that decode steps are fed, instead of those that the input names or
                of the greedy ones; for example another capture's ``continuation``.
            positions: of the prefill's tokens whose rows are kept, counted from the end where
                negative; None is all.
            needs_answer: False lets the run end after the last stage, without logits.
            has_transfer: also observe caches where they arrive, between prefill and decode.
            is_fresh: run the model anew instead of sharing a capture at hand.
            options: engine options over those of the capture.
            prefilled: how many tokens are prefilled; each one after them is fed to a decode step.
            resumes: a capture whose cache the run decodes from, without a prefill.
            sent: the cache as it was sent, and not as it arrived.

        Raises:
            FalsifyError: when it could not be made. What is absent here skips the test.
        """
        spec = self._with_options(self._spec(capture), options)
        plan = Plan(
            stages=None if stages is None else tuple(canonical(each) for each in stages),
            layers=None if layers is None else tuple(layers),
            decode_steps=decode_steps,
            positions=None if positions is None else tuple(positions),
            needs_answer=needs_answer,
            has_transfer=has_transfer,
        )
        try:
            self._must_suit(spec, is_fresh=is_fresh)
            session = self.pool.session(self.target, spec, root=self.root, device=self.device)
            if getattr(session, "is_served", False):
                plan = plan.answer_only()
            fed = self._fed(self._inputs(inputs, session), tuple(forced), prefilled)
            if resumes is not None:
                from pytest_falsify.disaggregation.resumed import Resumed

                step = 0 if sent else TRANSFER
                return record(Resumed(session=session, after=resumes, step=step), fed, plan)
            return self.pool.capture(session, fed, plan, is_fresh=is_fresh)
        except Blocked as error:
            pytest.skip(error.one_line)
        except FalsifyError as error:
            raise self._placed(error, spec, inputs) from error

    def _placed(
        self, error: FalsifyError, spec: CaptureSpec, inputs: str | Sequence[int]
    ) -> FalsifyError:
        """Return the error at the line of the target, the input or the capture that it is about."""
        if self.claim is None:
            return error
        contract = self.claim.contract
        named = contract.inputs.get(inputs) if isinstance(inputs, str) else None
        line = spec.line
        if f"target `{self.target.name}`" in error.what:
            line = self.target.line
        elif named is not None and f"input `{named.name}`" in error.what:
            line = named.line
        place = line or self.claim.falsifier.line
        return error.located(contract.path, place) if place else error

    def _fed(
        self, inputs: TokenInputs, forced: tuple[int, ...], prefilled: int | None
    ) -> TokenInputs:
        if prefilled is not None:
            forced = inputs.tokens[prefilled:]
            inputs = replace(inputs, tokens=inputs.tokens[:prefilled])
        return replace(inputs, forced=forced) if forced else inputs

    def _with_options(self, spec: CaptureSpec, options: Mapping[str, Any] | None) -> CaptureSpec:
        if not options:
            return spec
        must_be_options(spec.engine, options)
        return replace(spec, options={**spec.options, **options})

    def session(self, capture: str | Mapping[str, Any]) -> Session:
        """Return the loaded model of a capture.

        Args:
            capture: see ``__call__``.

        Raises:
            FalsifyError: when it could not be loaded. What is absent here skips the test.
        """
        spec = self._spec(capture)
        try:
            self._must_suit(spec, is_fresh=False)
            return self.pool.session(self.target, spec, root=self.root, device=self.device)
        except Blocked as error:
            pytest.skip(error.one_line)

    def _must_suit(self, spec: CaptureSpec, *, is_fresh: bool) -> None:
        """Refuse commands where nobody gave permission, and recordings where a run is asked."""
        wanted = engine(spec.engine)
        if runs_commands(wanted, spec.options) and not self.may_run_commands:
            msg = f"capture `{spec.name}` runs a command, which is not done without permission"
            key = "run" if "run" in spec.options else "command"
            raise Blocked(msg, remedy=f"read its `{key}:`, then give --falsify-allow-commands")
        if getattr(wanted, "replays", False) and is_fresh:
            msg = f"capture `{spec.name}` is a recording, which cannot be run anew"
            raise CaptureError(msg, expected="an engine that runs the model")

    def _spec(self, capture: str | Mapping[str, Any]) -> CaptureSpec:
        if isinstance(capture, Mapping):
            options = {key: value for key, value in capture.items() if key != "engine"}
            engine = capture.get("engine", "transformers")
            must_be_options(engine, options)
            return CaptureSpec(name="inline", engine=engine, line=0, options=options)
        known = self.claim.contract.captures if self.claim else {}
        if capture not in known:
            msg = f"unknown capture `{capture}`"
            raise ContractError(msg, expected=f"one of {', '.join(known) or 'none'}, or a mapping")
        return known[capture]

    def _inputs(self, inputs: str | Sequence[int], session: Session) -> TokenInputs:
        if not isinstance(inputs, str):
            return TokenInputs(name="tokens", tokens=tuple(inputs))
        known = self.claim.contract.inputs if self.claim else {}
        spec = known.get(inputs) or InputSpec(name="text", line=0, text=inputs)
        return token_inputs(spec, session, self.root)


def requested(make: Callable[..., Capture], requests: Iterable[Request]) -> dict[Request, Capture]:
    """Return the captures that a check asks for, each made when those that it builds on are.

    Args:
        make: a ``CaptureMaker``, or what takes the arguments of one.
        requests: in the order of the check.
    """
    made: dict[Request, Capture] = {}
    for each in requests:
        made[each] = make(
            each.capture,
            each.input,
            stages=each.plan.stages,
            layers=each.plan.layers,
            decode_steps=each.plan.decode_steps,
            positions=each.plan.positions,
            needs_answer=each.plan.needs_answer,
            has_transfer=each.plan.has_transfer,
            is_fresh=each.is_fresh,
            **(each.variant.of(made) if each.variant else {}),
        )
    return made
