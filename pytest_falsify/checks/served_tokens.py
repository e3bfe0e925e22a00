"""Servers that have to choose the same tokens: `tokens`, `decode` and `deterministic`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_falsify.checks.base import by_input
from pytest_falsify.checks.decode import FREE
from pytest_falsify.checks.decode import NEW_TOKENS as DECODED
from pytest_falsify.checks.served import lack, together, told, words
from pytest_falsify.checks.tokens import NEW_TOKENS, first_difference, plant_wrong_tokens
from pytest_falsify.checks.verdict import Verdict, finite, held, inconclusive, refuted
from pytest_falsify.compare.shortlists import Bounds, kl_bounds, sides, told_changes
from pytest_falsify.compare.tokens import SIGMAS, Choice
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.words import number_are, number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.captures.shortlist import Shortlist
    from pytest_falsify.checks.base import Captures
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.served import Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first token that differs.

    Attributes:
        index: which of the continuation, from 0.
        choice: whether noise explains it; None where the lists do not tell.
        text: it in words.
        margin: by how much the oracle prefers its own token to its second best.
    """

    index: int
    choice: Choice | None
    text: str
    margin: float

    @property
    def outcome(self) -> Outcome:
        """What it means for the claim."""
        return Outcome.REFUTED if self.choice is Choice.FLIP else Outcome.INCONCLUSIVE


def judge_tokens(claim: Claim, captures: Captures) -> Verdict:
    """Compare the token ids that both sides chose when left to themselves."""
    wanted = claim.parameter("new_tokens", NEW_TOKENS)
    margins = []
    for name, runs in by_input(captures).items():
        if reason := lack(runs, name) or _unsound(runs, name, but="subject"):
            return inconclusive(reason)
        if reason := _unsound(runs, name):
            return refuted([reason], captures, observed={})
        found = difference(claim, name, runs, wanted)
        if found is not None:
            observed = {"agreed": found.index, "margin": finite(found.margin)}
            return _concluded(found, captures, observed)
        if reason := _short((runs["subject", 0], runs["oracle", 0]), wanted, name):
            return inconclusive(reason)
        margins += [told(runs["oracle", 0], step, 1)[0].margin for step in range(wanted)]
    if not margins:
        return inconclusive("nothing was compared")
    return held(
        f"{number_of(wanted, 'token of the server is', 'tokens of the server are')} the oracle's",
        captures,
        observed={"agreed": wanted, "smallest_margin": finite(min(margins))},
        faults=plant_wrong_tokens(captures),
    )


def difference(claim: Claim, name: str, runs: Runs, wanted: int) -> Difference | None:
    """Return the first token that the two sides chose otherwise, or None."""
    subject, oracle = runs["subject", 0], runs["oracle", 0]
    index = first_difference(subject, oracle)
    if index is None:
        return None
    control = runs.get(("control", 0))
    known = None if control is None else first_difference(control, oracle)
    if known is not None and known < index:
        control = None  # it went another way before: its error here is not this token's
    mine, theirs = told(subject, index, 1)[0], told(oracle, index, 1)[0]
    changes = told_changes(
        mine,
        theirs,
        next(iter(told(control, index, 1)), None) if control else None,
        sigmas=claim.parameter("noise", {}).get("sigmas", SIGMAS),
    )
    choices = {each.choice for each in changes} or {Choice.FLIP}
    choice = Choice.FLIP if Choice.FLIP in choices else next(iter(choices))
    text = (
        f"token {index + 1} of {wanted} on {name} is {subject.continuation[index]}, the oracle's "
        f"is {oracle.continuation[index]} (by a margin of {theirs.margin:.3g}): there the oracle "
        f"tells {words(theirs)}, the subject {words(mine)}"
    )
    return Difference(index=index, choice=choice, text=text, margin=theirs.margin)


def _concluded(found: Difference, captures: Captures, observed: Mapping[str, Any]) -> Verdict:
    if found.outcome is Outcome.REFUTED:
        return refuted([found.text], captures, observed=observed)
    why = "what the lists do not tell" if found.choice is None else "a near-tie that noise explains"
    return inconclusive(f"{found.text}; it is {why}")


def _unsound(runs: Runs, name: str, but: str = "") -> str:
    """Return whose numbers are no distribution, leaving one role out, or nothing."""
    for (role, _), capture in runs.items():
        if role != but and not all(each.is_sound for each in _lasts(capture)):
            return f"the {role}'s log-probabilities on {name} are no distribution"
    return ""


def _lasts(capture: Capture) -> Iterator[Shortlist]:
    """Yield what is known of the last token of each step."""
    for step in range(len(capture.shortlists or capture.logits)):
        yield from told(capture, step, 1)


def _short(captures: tuple[Capture, ...], wanted: int, name: str) -> str:
    for each in captures:
        if len(each.continuation) < wanted:
            ended = f"after {len(each.continuation)} of {number_of(wanted, 'token')} on {name}"
            return "; ".join([f"an answer ended {ended}", *each.caveats])
    return ""


def judge_decode(claim: Claim, captures: Captures) -> Verdict:
    """Judge an answer of two workers that nobody can look into.

    With the oracle's tokens forced, each step's divergence is bounded by what the lists tell; left
    to itself the subject has to choose the same tokens. Which leg is at fault cannot be told.
    """
    wanted = claim.parameter("new_tokens", DECODED)
    found: dict[str, list[Bounds]] = {}
    unsure = ""
    for name, runs in by_input(captures).items():
        free = {("subject", 0): runs["subject", FREE], ("oracle", 0): runs["oracle", 0]}
        free |= {key: each for key, each in runs.items() if key[0] == "control"}
        if reason := lack(runs, name) or _short(tuple(runs.values()), wanted, name):
            return inconclusive(reason)
        found[name] = list(_steps(runs, wanted))
        if reason := _beyond(claim, found[name], name):
            return refuted([reason], captures, observed=_observed(found, wanted))
        differs = difference(claim, name, free, wanted)
        if differs is not None and differs.outcome is Outcome.REFUTED:
            return refuted([differs.text], captures, observed=_observed(found, differs.index))
        if differs is not None:
            unsure = unsure or _concluded(differs, captures, {}).reasons[0]
        unsure = unsure or _undecided(claim, found[name], name)
    if unsure or not found:
        return inconclusive(unsure or "nothing was compared")
    return held(
        f"{number_are(wanted, 'token')} the oracle's, "
        "and no step moves the next one's distribution far",
        captures,
        observed=_observed(found, wanted),
        faults=_planted_steps(claim, captures, wanted),
    )


def _steps(runs: Runs, wanted: int) -> Iterator[Bounds]:
    """Yield the bounds of each step's divergence, the oracle's tokens forced."""
    pair = {key: runs[key] for key in (("oracle", 0), ("subject", 0))}
    for step in range(wanted + 1):
        both = [each for _, each in together(pair, step)][-1:]
        yield from (kl_bounds(each["oracle"], each["subject"]) for each in both)


def _limited(claim: Claim, bounds: list[Bounds]) -> Iterator[tuple[str, Bounds, float]]:
    """Yield the mean and the largest divergence that have a limit, with the limit."""
    limits = claim.parameter("expect")["kl"]
    found = sides(bounds).items()
    yield from ((side, each, limits[side]) for side, each in found if side in limits)


def _beyond(claim: Claim, bounds: list[Bounds], name: str) -> str:
    for side, found, limit in _limited(claim, bounds):
        if not found.low <= limit:
            return f"{side} KL is no less than {found.low:.3g} nats, above {limit:g}, on {name}"
    return ""


def _undecided(claim: Claim, bounds: list[Bounds], name: str) -> str:
    for side, found, limit in _limited(claim, bounds):
        if not found.high <= limit:
            return (
                f"{side} KL on {name} is between {found.low:.3g} and {found.high:.3g} nats, by "
                f"what servers tell; {limit:g} is between: `top: all` would decide"
            )
    return ""


def _observed(found: Mapping[str, list[Bounds]], agreed: int) -> dict[str, Any]:
    every = [each for bounds in found.values() for each in bounds]
    return {
        "agreed": agreed,
        "leg": "untold",
        "kl_max": {
            "low": finite(max(each.low for each in every)),
            "high": finite(max(each.high for each in every)),
        },
    }


def _planted_steps(claim: Claim, captures: Captures, wanted: int) -> dict[str, int]:
    """Plant candidates that are others' at each step, and wrong tokens."""
    faults = plant_wrong_tokens(
        {request: each for request, each in captures.items() if request.run != FREE}
    )
    for runs in by_input(captures).values():
        subject = runs["subject", 0]
        for step in (0, wanted):
            changed = replaced(subject, step, shifted)
            found = list(_steps({**runs, ("subject", 0): changed}, wanted))
            faults["planted"] += 1
            faults["caught"] += bool(_beyond(claim, found, ""))
    return faults


def replaced(capture: Capture, step: int, change: Callable[[Shortlist], Shortlist]) -> Capture:
    """Return a copy of a run with another list for the last token of one step."""
    lists = [told(capture, each) for each in range(len(capture.shortlists or capture.logits))]
    lists[step] = (*lists[step][:-1], change(lists[step][-1]))
    return replace(capture, shortlists=tuple(lists), logits=())


def shifted(shortlist: Shortlist) -> Shortlist:
    """Return a list whose candidates are the next token ids: as of a vocabulary off by one."""
    return replace(shortlist, tokens=tuple(each + 1 for each in shortlist.tokens), vocabulary=None)


def judge_deterministic(_claim: Claim, captures: Captures) -> Verdict:
    """Compare every answer with the first: tokens, then every number that was told."""
    runs_of = by_input(captures)
    for name, runs in runs_of.items():
        if reason := lack(runs, name) or _unsound(runs, name):
            return inconclusive(reason)
        first, *others = runs.values()
        for number, other in enumerate(others, start=2):
            if where := _unequal(first, other):
                reason = f"{name}, answer {number}: {where} not the first answer's"
                return refuted([reason], captures, observed={"repeatable": False})
    if not any(len(runs) > 1 for runs in runs_of.values()):
        return inconclusive("nothing was compared")
    return held(
        "every token and every log-probability told is the first answer's",
        captures,
        observed={"repeatable": True, "repeats": min(map(len, runs_of.values()))},
        faults=_nudged(runs_of),
    )


def _unequal(first: Capture, other: Capture) -> str:
    if first.continuation != other.continuation:
        return "its tokens are"
    lists = zip(first.shortlists or (), other.shortlists or (), strict=False)
    for step, (one, two) in enumerate(lists):
        if one != two:
            return f"the candidates of step {step} are"
    return "" if len(first.shortlists or ()) == len(other.shortlists or ()) else "its length is"


def _nudged(runs_of: Mapping[str, Runs]) -> dict[str, int]:
    """Plant one number that is a millionth off, and one candidate that is another."""
    planted = caught = 0
    for runs in runs_of.values():
        first = next(iter(runs.values()))
        for change in (_nudge, shifted):
            planted += 1
            caught += bool(_unequal(first, replaced(first, 0, change)))
    return {"planted": planted, "caught": caught}


def _nudge(shortlist: Shortlist) -> Shortlist:
    first, *others = shortlist.logprobs
    return replace(shortlist, logprobs=(first - 1e-6, *others))


JUDGES = {
    "decode": judge_decode,
    "deterministic": judge_deterministic,
    "tokens": judge_tokens,
}
