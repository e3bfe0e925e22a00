"""`routing`: every token goes to the oracle's experts; what noise explains is a tie, and no flip.

Three things are judged: the dispatch against the router's own logits, by the rule that explains the
oracle's; the choices against the oracle's, by their margins; and the scores against their floor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pytest_falsify.checks.base import (
    CAPTURE_NAME,
    DECODE_STEPS,
    OBSERVED,
    Captures,
    Compare,
    Request,
    by_input,
    control_requests,
    pairs,
)
from pytest_falsify.checks.choices import NOISE
from pytest_falsify.checks.verdict import (
    Verdict,
    finite,
    held,
    inconclusive,
    missing_sites,
    refuted,
)
from pytest_falsify.compare.distribution import kl_divergence
from pytest_falsify.compare.noise import RATIO, unit_roundoff
from pytest_falsify.compare.tokens import SIGMAS
from pytest_falsify.routing.captured import STAGES, explained_by, facts_of_capture, routing_of
from pytest_falsify.routing.difference import Kind, RoutingDifference, compare_routings
from pytest_falsify.routing.faults import planted
from pytest_falsify.routing.gate import Gate
from pytest_falsify.routing.objections import BOUNDS, measures, objections
from pytest_falsify.stages.vocabulary import Site
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.routing.trace import Routing

ROUTER_INPUT = "ffn_norm"
GATE: Mapping[str, Any] = {
    "description": "the rule of the routers; by default the one that explains the oracle's choices",
    "type": "object",
    "properties": {
        "score": {"enum": ["softmax", "sigmoid", "softmax_of_chosen"]},
        "is_renormalised": {"type": "boolean"},
        "scale": {"type": "number"},
        "groups": {"type": "integer", "minimum": 1},
        "chosen_groups": {"type": "integer", "minimum": 1},
    },
    "additionalProperties": False,
}
INHERITS = (
    "every token inherits from a near-tie, so nothing tells of their scores: add an input that "
    "does not begin with one"
)
UNEXPLAINED = (
    "no rule that is known here makes the oracle's choices of its own logits: state `gate`, or "
    "record the routing with its bias and compare the runs"
)


class RoutingCheck:
    """Refuted by a wrong dispatch, by a flip, by scores beyond their floor, or by a bound."""

    kind: ClassVar[str] = "routing"
    parameters: ClassVar[Mapping[str, Any]] = {
        "subject": CAPTURE_NAME,
        "oracle": CAPTURE_NAME,
        "noise": NOISE,
        "gate": GATE,
        "expect": BOUNDS,
        "decode_steps": DECODE_STEPS,
        "layers": OBSERVED["layers"],
        "inputs": OBSERVED["inputs"],
    }
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the routers' stages and their inputs, in the prefill and the decode steps."""
        plan = claim.plan(decode_steps=claim.parameter("decode_steps", 0))
        plan = replace(plan, stages=(ROUTER_INPUT, *STAGES))
        return (*pairs(claim, plan), *control_requests(claim, plan))

    def judge(self, claim: Claim, captures: Captures, compare: Compare) -> Verdict:
        """Compare the routing of every input."""
        lacking = [str(each) for one in captures.values() for each in one.missing]
        if lacking or not captures:
            return inconclusive(missing_sites(lacking) if lacking else "nothing was compared")
        trials = {name: _Trial(claim, runs) for name, runs in by_input(captures).items()}
        if not all(each.is_explained for each in trials.values()):
            return inconclusive(UNEXPLAINED)
        found = {name: each.difference(each.subject) for name, each in trials.items()}
        observed = _observed(claim, found, trials)
        reasons = [
            f"{name}: {reason}"
            for name, each in found.items()
            for reason in objections(each, claim.parameter("expect"))
        ]
        if reasons:
            causes = [trials[name].cause(each, compare) for name, each in found.items()]
            return refuted([*reasons, *filter(None, causes)], captures, observed=observed)
        unjudged = sorted({index for each in found.values() for index in each.unjudged})
        if unjudged:
            return inconclusive(f"in layers {unjudged} {INHERITS}")
        tokens, ties = (observed[key] for key in ("tokens", "ties"))
        went = number_of(tokens, "token goes", "tokens go")
        reason = f"{went} to the oracle's experts, {number_of(ties, 'near-tie')} within noise"
        faults = _plant(claim, list(trials.values()))
        return held(reason, captures, observed=observed, faults=faults)


class _Trial:
    """The runs of one input."""

    def __init__(self, claim: Claim, runs: Mapping[tuple[str, int], Capture]) -> None:
        self.captures = {role: capture for (role, _), capture in runs.items()}
        stated = claim.parameter("gate")
        gate = Gate.from_json(stated) if stated else None
        self.oracle = _routing(self.captures["oracle"], gate)
        self.subject = _routing(self.captures["subject"], gate)
        control = self.captures.get("control")
        self._control = None if control is None else _routing(control, gate)
        self._sigmas = claim.parameter("noise", {}).get("sigmas", SIGMAS)
        self.is_explained = gate is not None or all(
            explained_by(each) for each in self.oracle.layers.values()
        )

    def difference(self, subject: Routing) -> RoutingDifference:
        return compare_routings(subject, self.oracle, self._control, sigmas=self._sigmas)

    def cause(self, found: RoutingDifference, compare: Compare) -> str | None:
        """Return whether the first router that is off was already fed something that is off."""
        noisy = [index for index, each in found.layers.items() if each.is_noisy]
        places = [*noisy, *(each.layer for each in found.of(Kind.FLIP))]
        if not places or "control" not in self.captures:
            return None
        site = Site(0, min(places), ROUTER_INPUT)
        sides = {
            role: replace(each, tensors={site: each.tensors[site]}, missing=())
            for role, each in self.captures.items()
        }
        mine = compare(sides["subject"], sides["oracle"]).sites[0].total.rel_l2
        dtype = self.captures["subject"].tensors[site].array.dtype
        floor = compare(sides["control"], sides["oracle"]).sites[0].total.rel_l2
        ratio = mine / max(floor, unit_roundoff(dtype))
        is_inherited = not ratio <= RATIO
        guilt = "its input is wrong already" if is_inherited else "the router itself is at fault"
        return f"layer {site.layer}: {guilt} ({ROUTER_INPUT} is {ratio:.3g} times its floor)"


def _routing(capture: Capture, gate: Gate | None) -> Routing:
    facts = facts_of_capture(capture, run_id=capture.inputs.name, created_at="")
    return routing_of(capture, facts, gate=gate)


def _observed(
    claim: Claim, found: Mapping[str, RoutingDifference], trials: Mapping[str, _Trial]
) -> dict[str, Any]:
    kinds = {kind: sum(len(each.of(kind)) for each in found.values()) for kind in Kind}
    observed: dict[str, Any] = {
        "calibration": "measured" if claim.parameter("noise") else "uncalibrated",
        "flips": kinds[Kind.FLIP],
        "ties": kinds[Kind.TIE],
        "inherited": kinds[Kind.INHERITED],
        "tokens": sum(each.tokens for each in found.values()),
        "gate": str(next(iter(next(iter(trials.values())).oracle.layers.values())).gate),
        "worst": _worst(found),
    }
    first = next((each for one in found.values() for each in one.changes), None)
    if first:
        observed["first"] = {
            "kind": first.kind.value,
            "layer": first.layer,
            "margin": finite(first.margin),
            "token": first.token,
        }
    diverged = {name: each.diverged_at for name, each in found.items()}
    if any(each is not None for each in diverged.values()):
        observed["tokens_diverge_at"] = {k: v for k, v in diverged.items() if v is not None}
    return observed | _joined(found, trials)


def _worst(found: Mapping[str, RoutingDifference]) -> dict[str, Any]:
    """Return the worst of every measure over all inputs, and the largest ratio to the noise."""
    worst: dict[str, Any] = {}
    for each in found.values():
        for name, sides in measures(each).items():
            known = worst.setdefault(name, {})
            for side, value in sides.items():
                if side != "mean":
                    keep = min if side == "min" else max
                    known[side] = keep(known.get(side, value), value)
    told = {
        name: {side: finite(value) for side, value in sides.items()}
        for name, sides in worst.items()
    }
    ratios = [layer.ratio for each in found.values() for layer in each.layers.values()]
    measured = [each for each in ratios if each is not None]
    return told | ({"ratio": finite(max(measured))} if measured else {})


def _joined(found: Mapping[str, RoutingDifference], trials: Mapping[str, _Trial]) -> dict[str, Any]:
    """Return how far the next-token distributions are where experts changed, and elsewhere."""
    changed, unchanged = [], []
    for name, each in found.items():
        sides = [
            _logits(trials[name].captures[role], each.tokens) for role in ("oracle", "subject")
        ]
        if any(side is None for side in sides):
            return {}
        nats = kl_divergence(*sides)
        is_changed = np.isin(np.arange(len(nats)), [one.token for one in each.changes])
        changed += nats[is_changed].tolist()
        unchanged += nats[~is_changed].tolist()
    parts = {"changed": changed, "unchanged": unchanged}
    means = {key: finite(float(np.mean(part))) for key, part in parts.items() if part}
    return {"next_token_kl": means}


def _logits(capture: Capture, count: int) -> Any:
    rows = [each for each in capture.logits if each.ndim == 2]  # noqa: PLR2004 - tokens, vocabulary
    joined = np.concatenate(rows)[:count] if rows else ()
    return joined if len(joined) == count else None


def _plant(claim: Claim, trials: list[_Trial]) -> dict[str, Any]:
    """Plant every routing fault that exists in every input; each must be objected to."""
    count, missed = 0, []
    for trial in trials:
        for name, faulty in planted(trial.subject):
            count += 1
            if not objections(trial.difference(faulty), claim.parameter("expect")):
                missed.append(name)
    found: dict[str, Any] = {"planted": count, "caught": count - len(missed)}
    return {**found, "missed": sorted(set(missed))} if missed else found
