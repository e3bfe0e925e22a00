"""Servers that have to give near distributions: `argmax`, `topk` and `distribution`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import log, nan
from typing import TYPE_CHECKING, Any

from pytest_falsify.checks.base import by_input
from pytest_falsify.checks.choices import FEW
from pytest_falsify.checks.rule import MEASURED, UNCALIBRATED
from pytest_falsify.checks.served import lack, together
from pytest_falsify.checks.served_tokens import shifted
from pytest_falsify.checks.verdict import Verdict, finite, held, inconclusive, refuted
from pytest_falsify.compare.shortlists import (
    Bounds,
    js_bounds,
    kl_bounds,
    sides,
    told_changes,
    top_k_bounds,
)
from pytest_falsify.compare.tokens import SIGMAS, Choice
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_falsify.captures.shortlist import Shortlist
    from pytest_falsify.checks.base import Captures
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.compare.shortlists import ToldChange

    Told = tuple[str, int, dict[str, Shortlist]]


def _all_told(captures: Captures) -> Iterator[Told]:
    """Yield every token of every prefill that all sides tell of: input, position, lists by role."""
    for name, runs in by_input(captures).items():
        yield from ((name, position, lists) for position, lists in together(runs, 0))


def _missing(captures: Captures) -> str:
    reasons = (lack(runs, name) for name, runs in by_input(captures).items())
    return next(filter(None, reasons), "")


def judge_topk(claim: Claim, captures: Captures) -> Verdict:
    """Compare the k best next tokens."""
    return _judge_choices(claim, captures, claim.parameter("k", FEW))


def judge_argmax(claim: Claim, captures: Captures) -> Verdict:
    """Compare the best next tokens."""
    return _judge_choices(claim, captures, 1)


def _judge_choices(claim: Claim, captures: Captures, k: int) -> Verdict:
    told = list(_all_told(captures))
    if reason := _missing(captures) or _unfit(told, k):
        return inconclusive(reason)
    found = [(name, each) for name, at, lists in told for each in _changes(claim, lists, k, at)]
    choices = [each.choice for _, each in found]
    flips = choices.count(Choice.FLIP)
    observed = {
        "flips": flips,
        "ties": choices.count(Choice.TIE),
        "tokens": len(told),
        "calibration": MEASURED if claim.parameter("noise") else UNCALIBRATED,
    }
    if flips:
        name, first = found[choices.index(Choice.FLIP)]
        return refuted([_words(name, first, flips)], captures, observed=observed)
    if None in choices:
        name, first = found[choices.index(None)]
        return inconclusive(f"{_words(name, first, 1)}: a longer list would decide (`top`)")
    return held(
        f"the {k} best of {number_of(len(told), 'token')} agree, {observed['ties']} within noise",
        captures,
        observed=observed,
        faults=_planted(told, partial(_flips, claim, k), k),
    )


def _unfit(told: list[Told], k: int) -> str:
    """Return why what was told cannot be judged, or nothing."""
    for name, _, lists in told:
        for role, each in lists.items():
            if len(each.tokens) < k:
                return f"the {role} tells {number_of(len(each.tokens), 'candidate')}, not {k}"
            if role != "subject" and not each.is_sound:
                return f"the {role}'s log-probabilities on {name} are no distribution"
    return "" if told else "nothing was compared"


def _changes(
    claim: Claim, lists: Mapping[str, Shortlist], k: int, position: int
) -> tuple[ToldChange, ...]:
    return told_changes(
        lists["subject"],
        lists["oracle"],
        lists.get("control"),
        k=k,
        sigmas=claim.parameter("noise", {}).get("sigmas", SIGMAS),
        token=position,
    )


def _flips(claim: Claim, k: int, lists: Mapping[str, Shortlist]) -> bool:
    return any(each.choice is Choice.FLIP for each in _changes(claim, lists, k, 0))


def _words(name: str, found: ToldChange, count: int) -> str:
    change = found.change
    least = "at least " if found.is_least else ""
    flips = number_of(count, "choice flips", "choices flip")
    return (
        f"{flips}; the first on {name} at token {change.token}: {change.subject} "
        f"instead of {change.oracle}, which the oracle prefers by {least}{change.margin:.3g} "
        f"(noise explains {change.allowance:.3g})"
    )


def judge_distribution(claim: Claim, captures: Captures) -> Verdict:
    """Hold the bounds of divergences against their limits."""
    told = list(_all_told(captures))
    if reason := _missing(captures) or ("" if told else "nothing was compared"):
        return inconclusive(reason)
    if not all(lists["oracle"].is_sound for _, _, lists in told):
        return inconclusive("the oracle's log-probabilities are no distribution")
    expect = claim.parameter("expect")
    found = {
        name: [measure(lists["oracle"], lists["subject"]) for _, _, lists in told]
        for name, measure in _measures(expect).items()
    }
    observed = {
        name: {side: _json(bounds) for side, bounds in sides(each).items()}
        for name, each in found.items()
    }
    if broken := list(_broken(found, expect)):
        return refuted(broken, captures, observed=observed)
    if unsure := list(_undecided(found, expect)):
        return inconclusive("; ".join(unsure))
    tokens = number_of(len(told), "token is within its bounds", "tokens are within their bounds")
    return held(
        f"{tokens}, whatever the servers do not tell",
        captures,
        observed=observed,
        faults=_planted(told, partial(_is_broken, expect)),
    )


def _measures(expect: Mapping[str, Any]) -> dict[str, Callable[[Shortlist, Shortlist], Bounds]]:
    known: dict[str, Callable[[Shortlist, Shortlist], Bounds]] = {"kl": kl_bounds, "js": js_bounds}
    if "top_k" in expect:
        known["top_k"] = partial(top_k_bounds, k=expect["top_k"]["k"])
    return {name: known[name] for name in expect}


def _limits(
    found: Mapping[str, list[Bounds]], expect: Mapping[str, Any]
) -> Iterator[tuple[str, Bounds, float]]:
    for name, bounds in found.items():
        for side, each in sides(bounds).items():
            if side in expect[name]:
                yield f"{name} {side}", each, expect[name][side]


def _broken(found: Mapping[str, list[Bounds]], expect: Mapping[str, Any]) -> Iterator[str]:
    for what, each, limit in _limits(found, expect):
        if not each.low <= limit:
            yield f"{what} is no less than {each.low:.3g} nats, above {limit:g}"


def _undecided(found: Mapping[str, list[Bounds]], expect: Mapping[str, Any]) -> Iterator[str]:
    for what, each, limit in _limits(found, expect):
        if not each.high <= limit:
            yield (
                f"{what} is between {each.low:.3g} and {each.high:.3g} nats by what the servers "
                f"tell, and {limit:g} is between: ask for more (`top`), or bound `js` or `top_k`"
            )


def _is_broken(expect: Mapping[str, Any], lists: Mapping[str, Shortlist]) -> bool:
    measures = _measures(expect)
    found = {name: [each(lists["oracle"], lists["subject"])] for name, each in measures.items()}
    return any(_broken(found, expect))


def _json(bounds: Bounds) -> dict[str, Any]:
    return {"low": finite(bounds.low), "high": finite(bounds.high)}


def _planted(
    told: list[Told], refutes: Callable[[Mapping[str, Shortlist]], bool], k: int | None = None
) -> dict[str, int]:
    """Plant other candidates, their order reversed, equal ones and a NaN at one token of each."""
    planted = caught = 0
    last = {name: lists for name, _, lists in told}
    for lists in last.values():
        for faulty in _faulty(lists["subject"]):
            if k is not None and _is_same_choice(faulty, lists["subject"], k):
                continue
            planted += 1
            caught += refutes({**lists, "subject": faulty})
    return {"planted": planted, "caught": caught}


def _is_same_choice(one: Shortlist, other: Shortlist, k: int) -> bool:
    return one.is_sound and {*one.tokens[:k]} == {*other.tokens[:k]}


def _faulty(subject: Shortlist) -> Iterator[Shortlist]:
    count = len(subject.tokens)
    yield shifted(subject)
    yield replace(subject, logprobs=(nan, *subject.logprobs[1:]))
    if count > 1:
        yield replace(subject, tokens=subject.tokens[::-1])
        even = log(subject.mass / count)
        yield replace(subject, tokens=tuple(sorted(subject.tokens)), logprobs=(even,) * count)


JUDGES = {
    "argmax": judge_argmax,
    "distribution": judge_distribution,
    "topk": judge_topk,
}
