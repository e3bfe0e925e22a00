"""`kv`: the cache is right after prefill, after the transfer and at decode; else the leg is named.

Prefill and decode are held against limits or a control's noise, the transfer against the bound
that its codec declares. No leg is blamed for what it was given: see ``disaggregation.legs``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.captures.plan import CACHES, Plan
from pytest_falsify.checks.base import (
    CAPTURE_NAME,
    OBSERVED,
    Captures,
    Compare,
    Request,
    Variant,
    by_input,
)
from pytest_falsify.checks.claim import parse_layers
from pytest_falsify.checks.parity import NOISE
from pytest_falsify.checks.planting import Pair, plant
from pytest_falsify.checks.rule import MEASURED, UNCALIBRATED, Rule, is_measured
from pytest_falsify.checks.served import asks_server, is_served
from pytest_falsify.checks.verdict import (
    Judged,
    Verdict,
    beyond_floor,
    held,
    inconclusive,
    refuted,
    worst,
)
from pytest_falsify.compare.comparison import counting
from pytest_falsify.compare.faults import plant_all, smallest_caught
from pytest_falsify.compare.limits import LIMITS_SCHEMA, Limits, parse_limits
from pytest_falsify.compare.noise import Judgement
from pytest_falsify.disaggregation.legs import (
    Leg,
    cache_sites,
    decoded,
    excess,
    held_after_prefill,
    is_finite,
    named,
    transferred,
    was_changed,
)
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import TRANSFER
from pytest_falsify.words import number_are

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim

    Runs = Mapping[tuple[str, int], Capture]

DECODE_STEPS = 8
REPLAY = "replay"


class Kv:
    """Refuted by the first leg whose part of the cache is beyond what it may be off."""

    kind: ClassVar[str] = "kv"
    parameters: ClassVar[Mapping[str, Any]] = {
        "subject": CAPTURE_NAME,
        "oracle": CAPTURE_NAME,
        "decode_steps": {
            "description": f"how many steps are decoded, with the oracle's tokens; {DECODE_STEPS}",
            "type": "integer",
            "minimum": 1,
            "maximum": 100_000,
            "default": DECODE_STEPS,
        },
        "expect": LIMITS_SCHEMA,
        "noise": NOISE,
        "layers": OBSERVED["layers"],
        "inputs": OBSERVED["inputs"],
    }
    required: ClassVar[tuple[str, ...]] = ("subject", "oracle")
    one_of: ClassVar[tuple[str, ...]] = ("expect", "noise")

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for the oracle's run, the subject's on its tokens, and good code's on its cache."""
        steps = claim.parameter("decode_steps", DECODE_STEPS)
        return tuple(
            each
            for name in claim.inputs
            for each in leg_requests(claim, name, steps=steps, replays={0: False})
        )

    def judge(self, claim: Claim, captures: Captures, compare: Compare) -> Verdict:
        """Judge the legs of every input."""
        found = legs_of(claim, captures, compare)
        if not found:
            return inconclusive("nothing was compared")
        judged = tuple(each for one in found.values() for each in one.judged)
        guilty = {
            leg: f"{leg.value}, on {name}: {reason}"
            for name, one in reversed(found.items())
            for leg, reason in one.guilty.items()
        }
        observed = {
            "calibration": MEASURED if is_measured(judged) else UNCALIBRATED,
            "guilty": [leg.value for leg in Leg if leg in guilty],
            "leg": named(guilty),
            "worst": worst(judged),
        }
        if guilty:
            reasons = [guilty[leg] for leg in Leg if leg in guilty]
            return refuted(reasons, captures, observed=observed, judged=judged)
        for name, one in found.items():
            if one.undecided:
                return inconclusive(f"on {name}: {one.undecided[0]}", judged)
        sites = sum(len(cache_sites(one.subject, TRANSFER)) for one in found.values())
        return held(
            f"{sites} caches arrive as they may, and each leg made of them what it should",
            captures,
            observed=observed,
            faults=_planted(found.values()),
            judged=judged,
        )


def leg_requests(
    claim: Claim, name: str, *, steps: int, replays: Mapping[int, bool]
) -> tuple[Request, ...]:
    """Return the requests of one input that the legs are judged from.

    Args:
        claim: names subject, oracle and perhaps a control.
        name: the input.
        steps: how many decode steps.
        replays: by number, whether good code resumes from what was sent instead of what arrived.
    """
    plan = Plan(stages=CACHES, decode_steps=steps)
    oracle = Request(role="oracle", capture=claim.parameter("oracle"), input=name, plan=plan)
    forced = Variant(forced_by=oracle)
    subject = replace(
        oracle,
        role="subject",
        capture=claim.parameter("subject"),
        plan=replace(plan, has_transfer=True),
        variant=forced,
    )
    found = [oracle, subject]
    if not _is_served(claim):  # nothing resumes from a cache that nobody shows
        found += [
            replace(
                oracle,
                role=REPLAY,
                run=run,
                variant=replace(forced, resumes=subject, sent=is_sent),
            )
            for run, is_sent in replays.items()
        ]
    noise = claim.parameter("noise")
    if noise is not None:
        found.append(replace(oracle, role="control", capture=noise["control"], variant=forced))
    return tuple(found)


def _is_served(claim: Claim) -> bool:
    """Tell whether the subject or the oracle is a server."""
    names = (claim.parameter("subject"), claim.parameter("oracle"))
    return any(asks_server(claim.contract.captures[each]) for each in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """How far prefill and decode may be off: stated limits, a control's noise, or both."""

    compare: Compare
    limits: Limits | None
    ratios: Mapping[str, float]

    @classmethod
    def of(cls, claim: Claim, compare: Compare) -> Yardstick:
        """Return that of a claim."""
        expect = claim.parameter("expect")
        limits = parse_limits(expect) if expect else None
        noise = claim.parameter("noise", {})
        return cls(
            compare=counting(compare, limits.tolerances if limits else ()),
            limits=limits,
            ratios={key: value for key, value in noise.items() if key != "control"},
        )

    def tried(self, leg: Leg, sides: Sides, control: Sides | None) -> tuple[Judged, Pair]:
        """Return what is beyond between two sides, and what faults are planted in."""
        rule = Rule(
            limits=self.limits,
            control=self.compare(*control) if control else None,
            ratios=self.ratios,
        )
        pair = Pair(subject=sides[0], oracle=sides[1], compare=self.compare, refutes=rule.refutes)
        return rule.judged(leg.value, self.compare(*sides)), pair


Sides = tuple["Capture", "Capture"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Legs:
    """What became of the legs on one input.

    Attributes:
        subject: its run.
        guilty: by leg, why.
        undecided: why nothing can be said of a leg that is not guilty.
        judged: the comparisons of prefill and decode.
        pairs: what faults are planted in.
    """

    subject: Capture
    guilty: Mapping[Leg, str]
    undecided: tuple[str, ...]
    judged: tuple[Judged, ...]
    pairs: tuple[Pair, ...]

    @classmethod
    def of(cls, runs: Runs, yardstick: Yardstick) -> Legs:
        """Judge the legs of one input."""
        subject, oracle = runs["subject", 0], runs["oracle", 0]
        replay, control = runs[REPLAY, 0], runs.get(("control", 0))
        prefill = held_after_prefill(subject, oracle)
        decode = decoded(subject, replay)
        floors = {
            Leg.PREFILL: (held_after_prefill(subject, control)[1], prefill[1]) if control else None,
            Leg.DECODE: decoded(control, oracle) if control else None,
        }
        sides = {Leg.PREFILL: prefill, Leg.DECODE: decode}
        tried = {leg: yardstick.tried(leg, each, floors[leg]) for leg, each in sides.items()}
        judged = {leg: each for leg, (each, _) in tried.items()}
        guilty = {leg: why for leg, each in judged.items() if (why := _beyond(each))}
        undecided = [why for leg, each in judged.items() if (why := _unsure(leg, each))]
        arrived = transferred(subject)
        if arrived:
            guilty[Leg.TRANSFER] = (
                f"{number_are(len(arrived), 'site')} beyond; the first is {arrived[0]}"
            )
        if len(cache_sites(subject, TRANSFER)) < len(cache_sites(oracle, 1)):
            undecided.append("transfer: what arrived was not shown")
        if not is_finite(subject, TRANSFER):
            guilty.pop(Leg.DECODE, None)
            undecided.append("decode: it was given NaN or infinite values")
        elif (changed := was_changed(subject)) is not None:
            guilty[Leg.DECODE] = f"{changed}: it changed what had arrived"
        return cls(
            subject=subject,
            guilty=guilty,
            undecided=tuple(undecided),
            judged=tuple(judged.values()),
            pairs=tuple(pair for _, pair in tried.values()),
        )

    def refutes_arrival(self, site: Any, tensor: Any) -> bool:
        """Tell whether this tensor, arriving at this site, would be beyond the codec's bound."""
        return excess(self.subject, site, tensor) is not None


def legs_of(claim: Claim, captures: Captures, compare: Compare) -> dict[str, Legs]:
    """Return what became of the legs, by input.

    Raises:
        CaptureError: when a side is a server, which shows no cache.
    """
    if is_served(captures):
        msg = "a server shows no cache, so no leg can be told from another"
        raise CaptureError(msg, expected="captures of engines that show what workers hold")
    yardstick = Yardstick.of(claim, compare)
    layers = parse_layers(claim.parameter("layers", "all"))
    return {
        name: Legs.of(_chosen(runs, layers), yardstick) for name, runs in by_input(captures).items()
    }


def _beyond(judged: Judged) -> str:
    if judged.comparison.missing:
        return f"{judged.comparison.missing[0]} is missing"
    if judged.violations:
        broken = number_are(len(judged.violations), "limit")
        return f"{broken} broken; the first is {judged.violations[0]}"
    bugs = judged.beyond(Judgement.BUG)
    if bugs:
        place = ", ".join(f"{name}={index}" for name, index in bugs[0].row_position.items())
        at = f" at {place}" if place else ""
        first = f"{bugs[0].site}{at}: {bugs[0].reason}"
        return f"{beyond_floor(len(bugs))}; the first is {first}"
    return ""


def _unsure(leg: Leg, judged: Judged) -> str:
    if judged.comparison.is_empty:
        return f"{leg.value}: nothing was compared"
    unsure = judged.beyond(Judgement.INCONCLUSIVE)
    return f"{leg.value}: {unsure[0].site}: {unsure[0].reason}" if unsure else ""


def _chosen(runs: Runs, layers: tuple[int, ...] | None) -> Runs:
    """Return runs with the tensors of some layers; the others were only there to resume from."""
    if layers is None:
        return runs
    return {
        key: replace(
            run,
            tensors={site: each for site, each in run.tensors.items() if site.layer in layers},
        )
        for key, run in runs.items()
    }


def _planted(found: Iterable[Legs]) -> dict[str, Any]:
    """Plant faults in what each leg handed on, and add up what was made of them."""
    every = tuple(found)
    faults = plant(pair for one in every for pair in one.pairs)
    smallest = [faults["smallest_caught"]]
    missed = set(faults.get("missed", ()))
    for one in every:
        sites = cache_sites(one.subject, TRANSFER)
        result = plant_all(one.subject, one.refutes_arrival, sites=sites)
        faults["planted"] += result.planted
        faults["caught"] += result.caught
        missed |= {name for name, _ in result.missed}
        smallest.append(smallest_caught(one.subject, sites[0], one.refutes_arrival))
    faults["smallest_caught"] = None if None in smallest else max(smallest)
    return {**faults, "missed": sorted(missed)} if missed else faults
