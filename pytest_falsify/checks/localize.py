"""`localize`: the guilty operations are those that the contract says, or none.

An operation is guilty when it does not make of the subject's own inputs what known-good code makes
of them. What it inherited is not its fault.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.base import (
    CAPTURE_NAME,
    DECODE_STEPS,
    PAIR,
    Captures,
    Compare,
    Request,
    by_input,
    control_requests,
    pairs,
)
from pytest_falsify.checks.parity import NOISE
from pytest_falsify.checks.planting import Pair, plant
from pytest_falsify.checks.verdict import Verdict, coverage, finite, inconclusive, missing_sites
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.compare.noise import Judgement, judge_noise
from pytest_falsify.errors import CaptureError, ContractError
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.localize.bisection import layer_chain
from pytest_falsify.localize.budget import stream_plan, zoom
from pytest_falsify.localize.chain import Chain, build
from pytest_falsify.localize.evaluation import WIDER, Evaluator, comparison_of
from pytest_falsify.localize.expectation import SCHEMA, Expectation, parse_expectation, told
from pytest_falsify.localize.grafts import graft
from pytest_falsify.localize.naming import name_fault
from pytest_falsify.localize.served import unlike_served
from pytest_falsify.localize.straddle import straddle
from pytest_falsify.words import number_are, number_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.compare.comparison import Comparison
    from pytest_falsify.engines.base import Session
    from pytest_falsify.localize.grafts import Graft

SERVED = 1
"""The run number of the served path among the subject's."""


class Localize:
    """Refuted by an operation that is guilty and should not be, or that should be and is not."""

    kind: ClassVar[str] = "localize"
    parameters: ClassVar[Mapping[str, Any]] = {
        **{name: each for name, each in PAIR.items() if name != "positions"},
        "decode_steps": DECODE_STEPS,
        "noise": NOISE,
        "expect": SCHEMA,
        "weights": {
            **CAPTURE_NAME,
            "description": "the capture whose model has the weights that the subject declares, "
            "de-quantised or rounded as it says; the control's, or else the oracle's",
        },
        "dtype": {
            "description": "the precision at which the subject computes, where its tensors are in "
            "another one",
            "enum": sorted(WIDER),
        },
        "served": {
            **CAPTURE_NAME,
            "description": "the capture that runs the product as it is served; when its tokens or "
            "logits are not the subject's, nothing is concluded",
        },
        "budget": {
            "type": "boolean",
            "description": "look at the residual stream first, then into the guilty layers only",
        },
        "graft": {
            "type": "boolean",
            "description": "put the oracle's tensor into the subject at each guilty site and tell "
            "how much of the difference of the logits goes away",
        },
    }
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle", "expect")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the subject, the oracle, the control and the served path on every input."""
        expectation = parse_expectation(claim.parameter("expect"))
        steps = claim.parameter("decode_steps", 0)
        plan = claim.plan(decode_steps=steps)
        _must_be_on_chain(expectation, plan)
        if steps and claim.parameter("budget"):
            msg = "`budget` looks at the prefill alone"
            raise ContractError(msg, expected="`decode_steps` or `budget`, not both")
        found = [*pairs(claim, plan), *control_requests(claim, plan)]
        served = claim.parameter("served")
        if served is not None:
            found += [
                Request(
                    role="subject",
                    capture=served,
                    input=name,
                    plan=Plan(decode_steps=steps),
                    run=SERVED,
                    is_fresh=True,
                )
                for name in claim.inputs
            ]
        return tuple(found)

    def sessions(self, claim: Claim) -> tuple[str, ...]:
        """Return the captures whose loaded models it needs."""
        needs_subject = claim.parameter("budget") or claim.parameter("graft")
        subject = (claim.parameter("subject"),) if needs_subject else ()
        return (*subject, _weights(claim))

    def judge(self, _claim: Claim, _captures: Captures, _compare: Compare) -> Verdict:
        """Conclude nothing: without a model no operation can be done again."""
        return inconclusive("no model was loaded to do the operations again with")

    def judge_with(
        self, claim: Claim, captures: Captures, compare: Compare, sessions: Mapping[str, Session]
    ) -> Verdict:
        """Do every operation of the subject again and judge what differs."""
        trials = []
        for name, runs in by_input(captures).items():
            trial = _Trial(claim=claim, label=name, runs=runs, compare=compare)
            if reason := trial.served_otherwise():
                return inconclusive(f"on {name}: {reason}; nothing else is believed")
            trials.append(trial.localised(sessions))
        return _verdict(claim, captures, trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What one input showed.

    Attributes:
        subject: what the chain is of; with a budget, more than was asked for at first.
    """

    label: str
    subject: Capture
    chain: Chain
    objections: tuple[str, ...]
    grafts: tuple[Graft, ...]
    forwards: float
    ratios: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """One input's captures."""

    claim: Claim
    label: str
    runs: Mapping[tuple[str, int], Capture]
    compare: Compare

    @property
    def subject(self) -> Capture:
        return self.runs["subject", 0]

    @property
    def oracle(self) -> Capture:
        return self.runs["oracle", 0]

    @property
    def control(self) -> Capture | None:
        return self.runs.get(("control", 0))

    @property
    def ratios(self) -> dict[str, Any]:
        noise = self.claim.parameter("noise", {})
        return {name: each for name, each in noise.items() if name != "control"}

    def served_otherwise(self) -> str | None:
        served = self.runs.get(("subject", SERVED))
        if served is None:
            return None
        return unlike_served(self.subject, served, oracle=self.oracle, control=self.control)

    def localised(self, sessions: Mapping[str, Session]) -> _Found:
        evaluator = _evaluator(self.claim, sessions, self.subject)
        subject, forwards = self.subject, 1.0
        if self.claim.parameter("budget"):
            session = sessions[self.claim.parameter("subject")]
            stream = subject.restricted(stream_plan(session), session.layer_count)
            zoomed = zoom(evaluator, session, stream, oracle=self.oracle, ratios=self.ratios)
            subject, chain, forwards = zoomed.capture, zoomed.chain, zoomed.forwards
        else:
            chain = build(
                evaluator, subject, oracle=self.oracle, control=self.control, ratios=self.ratios
            )
        names = {
            each.site: named
            for each in chain.guilty
            if (named := name_fault(evaluator, subject, each.site, ratios=self.ratios))
        }
        chain = chain.with_names(names)
        return _Found(
            label=self.label,
            subject=subject,
            chain=chain,
            objections=self._objections(chain),
            grafts=self._grafts(chain, sessions),
            forwards=forwards,
            ratios=self.ratios,
        )

    def _objections(self, chain: Chain) -> tuple[str, ...]:
        expectation = parse_expectation(self.claim.parameter("expect"))
        wrong = expectation.objections(chain)
        if expectation.between is None:
            return wrong
        plan = self.claim.plan()
        crossed = straddle(
            self.compare(self.subject, self.oracle),
            layer_chain(plan.named_stages, (plan.layers or (0,))[0]),
            cosine=expectation.cosine,
        )
        pair = tuple(each.stage for each in crossed.pairs[0]) if crossed.narrows else None
        return wrong if pair == expectation.between else (*wrong, str(crossed))

    def _grafts(self, chain: Chain, sessions: Mapping[str, Session]) -> tuple[Graft, ...]:
        if not self.claim.parameter("graft"):
            return ()
        session = sessions[self.claim.parameter("subject")]
        prefilled = (each.site for each in chain.guilty if each.site.step == 0)
        sites = [each for each in prefilled if each in self.oracle.tensors]
        return tuple(graft(session, self.subject, self.oracle, each) for each in sites)


def _must_be_on_chain(expectation: Expectation, plan: Plan) -> None:
    """Refuse a pair of neighbours that the check's stages and layers do not make."""
    if expectation.between is None:
        return
    layers = plan.layers or ()
    stages = plan.stages or ()
    places = [stages.index(each) if each in stages else -2 for each in expectation.between]
    if len(layers) != 1 or places[1] - places[0] != 1 or min(places) < 0:
        msg = "`between` names no neighbours of this check"
        raise ContractError(msg, expected="two neighbours among `stages`, in one layer of `layers`")


def _weights(claim: Claim) -> str:
    """Return the capture whose model has the weights that the subject declares."""
    noise = claim.parameter("noise", {})
    named: str = claim.parameter("weights") or noise.get("control") or claim.parameter("oracle")
    options = claim.contract.captures[named].options
    if claim.parameter("weights") is None and options.get("rounding"):
        return str(claim.parameter("oracle"))  # a disturbed model declares nobody's weights
    return named


def _evaluator(claim: Claim, sessions: Mapping[str, Session], subject: Capture) -> Evaluator:
    name = _weights(claim)
    model = getattr(sessions[name], "model", None)
    if model is None:
        msg = f"capture `{name}` has no model to do the operations again with"
        raise CaptureError(
            msg,
            expected="a capture of the transformers engine",
            remedy="name one under `weights:`, with the weights that the subject declares",
        )
    return Evaluator.of(model, claim.parameter("dtype") or dtype_of(subject))


def dtype_of(subject: Capture) -> str:
    """Return the narrowest dtype in which a subject's tensors are.

    Raises:
        CaptureError: when none is known.
    """
    found = {str(each.array.dtype): each.array.itemsize for each in subject.tensors.values()}
    known = {name: size for name, size in found.items() if name in WIDER}
    if not known:
        msg = "the subject shows no tensor in a dtype that is known"
        raise CaptureError(msg, expected=f"one of {', '.join(WIDER)}", remedy="state `dtype:`")
    return min(known, key=lambda each: known[each])


def _verdict(claim: Claim, captures: Captures, found: list[_Found]) -> Verdict:
    expectation = parse_expectation(claim.parameter("expect"))
    outcome, reasons = _conclusion(expectation, found)
    is_held = outcome is Outcome.HELD
    return Verdict(
        outcome=outcome,
        reasons=reasons,
        observed=_observed(found),
        coverage=coverage([*captures.values(), *(each.subject for each in found)]),
        faults=plant(_pair(each, expectation) for each in found) if is_held else None,
        chains={each.label: each.chain for each in found},
    )


def _conclusion(expectation: Expectation, found: list[_Found]) -> tuple[Outcome, tuple[str, ...]]:
    objections = [each for one in found for each in one.objections]
    if objections:
        return Outcome.REFUTED, tuple(dict.fromkeys(objections))
    lack = _lack(found)
    if lack:
        return Outcome.INCONCLUSIVE, (lack,)
    guilty = [link for one in found for link in one.chain.guilty]
    count = len({link.site for one in found for link in one.chain.links})
    if not expectation.guilty:
        return Outcome.HELD, (_innocent(count),)
    return Outcome.HELD, tuple(dict.fromkeys(f"as expected, {told(each)}" for each in guilty))


def _innocent(count: int) -> str:
    good = "what known-good code does on"
    return number_of(
        count, f"operation does {good} its inputs", f"operations do {good} their inputs"
    )


def _lack(found: list[_Found]) -> str | None:
    """Return why nothing was shown, or None."""
    if not found or not all(each.chain.links for each in found):
        return "no operation could be done again"
    missing = [site for one in found for site in one.chain.missing]
    if missing:
        return missing_sites(missing)
    unsure = [link for one in found for link in one.chain.undecided]
    if unsure:
        first = unsure[0]
        undecided = number_are(len(unsure), "operation")
        return f"{undecided} undecided, first {first.site}: {first.own.reason}"
    return None


def _observed(found: list[_Found]) -> dict[str, Any]:
    links = [link for one in found for link in one.chain.links]
    observed: dict[str, Any] = {
        "calibration": "measured",
        "forwards": sum(each.forwards for each in found),
        "guilty": sorted({str(link.site) for one in found for link in one.chain.guilty}),
        "faults": {
            str(link.site): f"{link.named.fault}: {link.named.detail}"
            for one in found
            for link in one.chain.guilty
            if link.named is not None
        },
    }
    begins = {str(one.chain.divergence) for one in found if one.chain.divergence is not None}
    if begins:
        observed["divergence"] = sorted(begins)
    grafts = [each for one in found for each in one.grafts]
    if grafts:
        observed["grafts"] = {str(each.site): finite(round(each.share, 4)) for each in grafts}
    if links:
        worst = max(links, key=lambda each: each.own.ratio)
        observed["worst"] = {
            "site": str(worst.site),
            "rel_l2": finite(worst.own.error),
            "floor": finite(worst.own.floor),
            "ratio": finite(worst.own.ratio),
        }
    return observed


def _pair(found: _Found, expectation: Expectation) -> Pair:
    """Return what faults are planted in: the innocent operations and what was expected of them."""
    innocent = (each for each in found.chain.links if each.site not in expectation.guilty)
    steps = {site: again for link in innocent for site, again in link.done.steps.items()}
    tensors = {site: found.subject.tensors[site] for site in steps}
    expected = {site: again.expected for site, again in steps.items()}

    def refutes(comparison: Comparison) -> bool:
        allowed = comparison_of(steps[each.site].allowed for each in comparison.sites)
        judged = judge_noise(comparison, allowed, **found.ratios)
        return any(each.judgement is Judgement.BUG for each in judged)

    return Pair(
        subject=replace(found.subject, tensors=tensors, missing=()),
        oracle=replace(found.subject, tensors=expected, missing=()),
        compare=compare_captures,
        refutes=refutes,
    )
