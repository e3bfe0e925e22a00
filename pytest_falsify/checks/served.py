"""Verdicts on what servers tell: tokens and their best candidates, and nothing from inside.

The kinds that can judge by that are listed here; every other one is inconclusive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.captures.shortlist import Shortlist
from pytest_falsify.checks.verdict import inconclusive
from pytest_falsify.engines.registry import engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.base import Captures, Check
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.verdict import Verdict
    from pytest_falsify.contracts.model import CaptureSpec

    Runs = Mapping[tuple[str, int], Capture]


def is_served(captures: Captures) -> bool:
    """Tell whether any capture is what a server told."""
    return any(each.shortlists is not None for each in captures.values())


def asks_server(spec: CaptureSpec) -> bool:
    """Tell whether a capture of a contract is what a server will tell."""
    return bool(getattr(engine(spec.engine), "is_served", False))


def judging_kinds() -> tuple[str, ...]:
    """Return the kinds of check that judge what servers tell of one prompt."""
    return tuple(sorted(_judges()))


def judge_served(kind: Check, claim: Claim, captures: Captures) -> Verdict:
    """Judge captures of which some are what a server told.

    Args:
        kind: the check.
        claim: the claim.
        captures: what the check asked for, as far as a server can give it.
    """
    judges = _judges()
    if kind.kind in judges:
        return judges[kind.kind](claim, captures)
    names = sorted(
        {request.capture for request, each in captures.items() if each.shortlists is not None}
    )
    return inconclusive(
        f"kind `{kind.kind}` looks at what servers do not show; {', '.join(names)} tells tokens "
        f"and their best candidates alone, which {', '.join(judging_kinds())} judge"
    )


def _judges() -> Mapping[str, Callable[[Claim, Captures], Verdict]]:
    from pytest_falsify.checks import served_choices, served_tokens

    return {**served_tokens.JUDGES, **served_choices.JUDGES}


def told(capture: Capture, step: int, count: int | None = None) -> tuple[Shortlist, ...]:
    """Return what is known of the tokens that a step decides: lists, or logits as whole ones.

    Args:
        capture: of a server or of an engine with logits.
        step: 0 for the prefill.
        count: of how many of the step's last tokens; None: of all that are told.
    """
    if capture.shortlists is not None:
        known = capture.shortlists[step] if step < len(capture.shortlists) else ()
        return known if count is None else known[-count:]
    if step >= len(capture.logits):
        return ()
    logits = capture.logits[step]
    return tuple(map(Shortlist.of_logits, logits if count is None else logits[-count:]))


def together(runs: Runs, step: int) -> Iterator[tuple[int, dict[str, Shortlist]]]:
    """Yield what is known of each token that all runs tell of at a step, with its position.

    Only the last tokens of a prefill may be told of, so they are counted from its end.
    """
    each_told = [each.shortlists for each in runs.values() if each.shortlists is not None]
    counts = [len(lists[step]) if step < len(lists) else 0 for lists in each_told]
    count = min(counts, default=0)
    rows = {role: told(capture, step, count) for (role, _), capture in runs.items()}
    count = min([count, *map(len, rows.values())])
    last = len(next(iter(runs.values())).inputs.tokens) + step
    for back in range(count, 0, -1):
        yield last - back, {role: row[-back] for role, row in rows.items()}


def lack(runs: Runs, name: str) -> str:
    """Return what keeps runs on one input from being compared, or nothing."""
    if len({each.inputs.tokens for each in runs.values()}) > 1:
        return f"the two sides were given other tokens on {name}: give the input as `tokens: [...]`"
    for (role, _), each in runs.items():
        if each.shortlists is not None and not any(each.shortlists):
            why = "; ".join(each.caveats) or "its answer was empty"
            return f"a server told of no token on {name}: {why}"
        if (step := untold(each)) is not None:
            return f"the {role} told no candidates of step {step} on {name}"
    return ""


def untold(capture: Capture) -> int | None:
    """Return the first step of which a server told no candidates, or None."""
    if capture.shortlists is None:
        return None
    answered = [len(each) for each in capture.shortlists]
    answered += [0] * (len(capture.continuation) - len(answered))
    return answered.index(0) if 0 in answered else None


def words(shortlist: Shortlist, count: int = 3) -> str:
    """Return the best of a list as a person reads it: ids with log-probabilities."""
    best = shortlist.best(count)
    pairs = zip(best.tokens, best.logprobs, strict=True)
    return ", ".join(f"{token} ({logprob:.3g})" for token, logprob in pairs)
