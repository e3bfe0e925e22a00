"""A claim tried on every prompt of a dataset: of each run an outcome is kept, and no tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pytest_falsify.canonical import digest
from pytest_falsify.captures.capture import Capture, Identity, TokenInputs
from pytest_falsify.captures.pool import token_inputs
from pytest_falsify.captures.record import record
from pytest_falsify.checks.prompt_outcome import PromptOutcome
from pytest_falsify.compare.rates import Rate
from pytest_falsify.contracts.dataset import read_dataset
from pytest_falsify.contracts.digest import entry_digest
from pytest_falsify.contracts.model import InputSpec
from pytest_falsify.errors import CaptureError, ContractError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from pytest_falsify.checks.base import Captures, Request
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.inside import Sessions
    from pytest_falsify.checks.kept_outcomes import KeptOutcomes
    from pytest_falsify.checks.verdict import Verdict
    from pytest_falsify.contracts.dataset import Prompt
    from pytest_falsify.engines.base import Session

Told = Callable[[int, int, Rate | None], None]
"""Is told how many prompts are done, of how many, and how many of those judged differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What came of all prompts, in the order of their datasets.

    Attributes:
        captures: of every run its identity and what it was fed; no tensors and no answers.
    """

    outcomes: tuple[PromptOutcome, ...]
    captures: Captures


@runtime_checkable
class JudgesPrompts(Protocol):
    """A check that looks at one prompt after the other, and judges what they came to together."""

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Return the captures that it needs of each prompt; their inputs name the datasets."""

    def outcome(self, claim: Claim, id: str, runs: Mapping[str, Capture]) -> PromptOutcome:  # noqa: A002
        """Return what the captures of one prompt, by role, come to."""

    def judge_survey(self, claim: Claim, survey: Survey) -> Verdict:
        """Judge the outcomes of all prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One prompt, and what is to be captured of it.

    Attributes:
        id: what it is called; with its dataset's name where there is more than one.
    """

    id: str
    prompt: Prompt
    requests: Sequence[Request]

    @property
    def spec(self) -> InputSpec:
        """The prompt as an input of its own."""
        prompt = self.prompt
        return InputSpec(name=self.id, line=prompt.line, text=prompt.text, tokens=prompt.tokens)


def asked_of(claim: Claim, check: JudgesPrompts) -> tuple[Asked, ...]:
    """Return all prompts that a claim is tried with.

    Raises:
        ContractError: when a dataset cannot be read; see ``read_dataset``.
    """
    contract, requests = claim.contract, check.requests(claim)
    found: list[Asked] = []
    for name in claim.inputs:
        spec = contract.inputs[name]
        if spec.dataset is None:
            msg = f"the input `{name}` is one prompt"
            raise ContractError(msg, path=contract.path, line=spec.line, expected="a `dataset:`")
        mine = tuple(each for each in requests if each.input == name)
        path = (contract.path.parent / spec.dataset).resolve()
        for prompt in read_dataset(path, field=spec.field, limit=spec.limit):
            id_ = prompt.id if len(claim.inputs) == 1 else f"{name}/{prompt.id}"
            found.append(Asked(id=id_, prompt=prompt, requests=mine))
    return tuple(found)


def begins_anew(sessions: Sessions) -> tuple[str, ...]:
    """Return the captures for whose sake a killed survey begins anew.

    The identity of their sessions does not cover what decides their numbers: what they said before
    may be of something else.
    """
    return tuple(
        name for name, each in sessions.items() if not getattr(each, "is_identity_complete", False)
    )


def survey_key(claim: Claim, check: JudgesPrompts, sessions: Sessions, scope: str) -> str | None:
    """Return the digest of all that decides outcomes but for what is fed.

    None where a killed survey ``begins_anew``.

    Args:
        claim: what is tried.
        check: its kind.
        sessions: the loaded models by the names of their captures.
        scope: what else decides numbers on this machine: code, environment.
    """
    if begins_anew(sessions):
        return None
    names = {request.role: request.capture for request in check.requests(claim)}
    identities = {role: sessions[name].identity() for role, name in names.items()}
    return digest(
        {
            "entry": entry_digest(claim.contract, claim.falsifier),
            "identities": {
                role: [each.digest, each.device_name] for role, each in identities.items()
            },
            "scope": scope,
        }
    )


def run_survey(
    claim: Claim,
    check: JudgesPrompts,
    sessions: Sessions,
    *,
    kept: KeptOutcomes | None = None,
    told: Told | None = None,
) -> Survey:
    """Run every prompt, as many at once as the sessions allow.

    Args:
        claim: what is tried.
        check: its kind.
        sessions: the loaded models by the names of their captures.
        kept: where outcomes are kept as soon as they are known, and those of a killed run found.
        told: is told after every prompt.

    Raises:
        ContractError: when a dataset cannot be read.
        Blocked: when what runs a model goes away meanwhile.
        AlignmentError: when two runs choose from different vocabularies.
    """
    asked = asked_of(claim, check)
    surveyor = _Surveyor(claim=claim, check=check, sessions=sessions, kept=kept)
    seen: dict[int, _Seen] = {}
    differing = judged = 0
    for place, each in surveyor.completed(asked):
        seen[place] = each
        if kept is not None and each.is_worth_keeping:
            kept.append(each.fed, each.outcome)
        judged += each.outcome.subject.differs is not None
        differing += each.outcome.subject.differs is True
        if told is not None:
            told(len(seen), len(asked), Rate(count=differing, total=judged) if judged else None)
    ordered = [seen[place] for place in range(len(asked))]
    return Survey(
        outcomes=tuple(each.outcome for each in ordered),
        captures={request: run for each in ordered for request, run in each.runs.items()},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """One prompt's outcome, the digest of what was fed, and the bare captures behind it."""

    outcome: PromptOutcome
    fed: str = ""
    runs: Captures = field(default_factory=dict)

    @property
    def is_worth_keeping(self) -> bool:
        """Whether it was run now, and would come out the same another time."""
        return bool(self.fed) and not self.outcome.is_resumed


@dataclass(kw_only=True)
class _Surveyor:
    """Runs prompts. A session that says nothing of concurrency runs alone, whatever the thread."""

    claim: Claim
    check: JudgesPrompts
    sessions: Sessions
    kept: KeptOutcomes | None
    _gates: dict[int, AbstractContextManager[object]] = field(init=False)
    _identities: dict[str, Identity] = field(init=False)

    def __post_init__(self) -> None:
        alone = Lock()
        self._gates = {
            id(each): BoundedSemaphore(_concurrency(each)) if _concurrency(each) > 1 else alone
            for each in self.sessions.values()
        }
        self._identities = {name: each.identity() for name, each in self.sessions.items()}

    def completed(self, asked: Sequence[Asked]) -> Iterator[tuple[int, _Seen]]:
        """Yield what each prompt came to, with its place, in the order in which they end."""
        size = max(map(_concurrency, self.sessions.values()), default=1)
        if size == 1:
            yield from ((place, self.seen(each)) for place, each in enumerate(asked))
            return
        with ThreadPoolExecutor(size, thread_name_prefix="survey") as pool:
            places = {pool.submit(self.seen, each): place for place, each in enumerate(asked)}
            try:
                for future in as_completed(places):
                    yield places[future], future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def seen(self, asked: Asked) -> _Seen:
        """Run one prompt; what cannot be run is an outcome of its own, and is told as one."""
        try:
            inputs = {each: self._inputs(each, asked) for each in asked.requests}
            fed = digest({each.role: inputs[each].digest for each in asked.requests})
            known = self.kept.find(fed, asked.id) if self.kept else None
            if known is not None:
                runs = {each: self._bare(each, inputs[each]) for each in asked.requests}
                return _Seen(outcome=known, fed=fed, runs=_named(asked, runs))
            runs = {each: self._run(each, inputs[each]) for each in asked.requests}
        except CaptureError as error:
            is_paired = any(each.role == "control" for each in asked.requests)
            lost = PromptOutcome.unseen(asked.id, error.what, is_paired=is_paired)
            return _Seen(outcome=lost)
        by_role = {request.role: run for request, run in runs.items()}
        outcome = self.check.outcome(self.claim, asked.id, by_role)
        bare = {request: stripped(run) for request, run in runs.items()}
        return _Seen(outcome=outcome, fed=fed, runs=_named(asked, bare))

    def _inputs(self, request: Request, asked: Asked) -> TokenInputs:
        session = self.sessions[request.capture]
        with self._gates[id(session)]:
            return token_inputs(asked.spec, session, self.claim.contract.path.parent)

    def _run(self, request: Request, inputs: TokenInputs) -> Capture:
        session = self.sessions[request.capture]
        with self._gates[id(session)]:
            return record(session, inputs, request.plan)

    def _bare(self, request: Request, inputs: TokenInputs) -> Capture:
        return Capture(
            identity=self._identities[request.capture],
            inputs=inputs,
            plan=request.plan,
            tensors={},
            logits=(),
        )


def stripped(capture: Capture) -> Capture:
    """Return what is left of a capture for the record: what ran, what it was fed, and caveats."""
    return replace(capture, tensors={}, logits=(), continuation=(), shortlists=None)


def _named(asked: Asked, runs: Captures) -> Captures:
    return {replace(request, input=asked.id): run for request, run in runs.items()}


def _concurrency(session: Session) -> int:
    return max(1, int(getattr(session, "concurrency", 1)))
