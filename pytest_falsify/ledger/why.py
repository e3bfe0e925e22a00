"""Why a falsifier has its status, from its evidence, and what would raise it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.ledger.block import trials
from pytest_falsify.ledger.evidence import Outcome, Source
from pytest_falsify.ledger.status import Status, discharge_needs, judge, noun

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_falsify.ledger.block import FalsifierBlock, Trial
    from pytest_falsify.ledger.evidence import Evidence

_SHORT = 12


def why(
    falsifier: str,
    block: FalsifierBlock,
    *,
    targets: Sequence[str] = (),
    live: Sequence[str] | None = None,
) -> str:
    """Return the explanation of a status, as text for a terminal.

    Args:
        falsifier: its id.
        block: what is on file.
        targets: the targets of today's contract, to name those without any evidence.
        live: those of level live; None when they are not known.
    """
    status, because = judge(block)
    lines = [f"{falsifier} is {status.value}", f"  {because}"]
    lines += [line for each in block.evidence for line in _evidence(block, each)]
    tried = {each.target for each in block.evidence}
    lines += [f"  {name}: nothing on file" for name in targets if name not in tried]
    steps = tuple(what_would_raise(falsifier, block, live=live))
    lines += ["to raise it:", *(f"  {each}" for each in steps)] if steps else []
    return "\n".join(lines) + "\n"


def what_would_raise(
    falsifier: str, block: FalsifierBlock, *, live: Sequence[str] | None = None
) -> Iterator[str]:
    """Yield in words what would raise the status, the most urgent first; see ``why``."""
    status, _ = judge(block)
    for trial in trials(block):
        yield from _steps(falsifier, trial)
    if status is Status.UNTRIED and not block.evidence:
        yield "run it: pytest --falsify"
    if status is Status.PARTIAL:
        yield _live_step(live)
    if status is Status.FUNCTIONAL:
        yield f"add {' and '.join(discharge_needs(block))}"


def _live_step(live: Sequence[str] | None) -> str:
    if live is None:
        return "run it on a target with `level: live`, on a real engine"
    if live:
        return f"run it on {' or '.join(live)}: pytest --falsify -m live"
    return "its contract has no live target: add one with `level: live`, and run it there"


def _steps(falsifier: str, trial: Trial) -> Iterator[str]:
    if trial.refuted:
        ids = ", ".join(_short(each.id) for each in trial.refuted)
        yield f"mend the subject and run it again on {trial.target}; a new digest supersedes {ids}"
    for each in trial.refuted:
        command = f'pytest-falsify retract {falsifier} {_short(each.id)} --who YOU --why "..."'
        yield f"if that refutation was itself wrong: {command}"
    if trial.stale and not trial.is_decided:
        yield f"run it again on {trial.target}"
    if trial.inconclusive:
        yield _decisive_step(trial)
    elif trial.blocked and not trial.is_decided:
        yield f"provide what was absent on {trial.target}"


def _decisive_step(trial: Trial) -> str:
    """More data decides what its reason says more data would decide, and not a NaN."""
    reason = " ".join(" ".join(trial.inconclusive[0].reasons[:1]).split())
    if "more tokens" in reason or not reason:
        return f"give it more data on {trial.target}"
    return f"mend what kept it from a decision on {trial.target}: {reason}"


def _evidence(block: FalsifierBlock, evidence: Evidence) -> Iterator[str]:
    source = "" if evidence.source is Source.LIVE else f" ({evidence.source.value})"
    where = f"{evidence.target}: {evidence.outcome.value}{source} on {_short(evidence.machine)}"
    platform = f", {evidence.platform}" if evidence.platform else ""
    yield f"  {where}{platform} [{_short(evidence.id)}]"
    for each in evidence.reasons:
        yield f"      {' '.join(each.split())}"
    yield from (f"      caveat: {each}" for each in evidence.caveats)
    if evidence.faults is not None:
        caught, planted = evidence.faults.get("caught"), evidence.faults.get("planted")
        yield f"      {caught} of {planted} planted faults caught"
    if evidence.retracted:
        yield f"      retracted by {evidence.retracted.who}: {evidence.retracted.why}"
    elif not block.is_fresh(evidence) and not _still_counts(block, evidence):
        changed = " and ".join(map(noun, block.changed_since(evidence)))
        yield f"      stale: the {changed} changed since"


def _still_counts(block: FalsifierBlock, evidence: Evidence) -> bool:
    return evidence.outcome is Outcome.REFUTED and block.counts_against(evidence)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_SHORT]
