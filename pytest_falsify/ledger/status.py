"""Status is computed, never asserted: a pure function of what is on file."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.block import trials
from pytest_falsify.ledger.digests import DISPUTED, Digests
from pytest_falsify.ledger.evidence import Outcome, Source

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from pytest_falsify.ledger.block import FalsifierBlock, Trial
    from pytest_falsify.ledger.discharge import Discharge
    from pytest_falsify.ledger.evidence import Evidence


class Status(Enum):
    """What the evidence supports.

    The members stand from the worst to the best. FALSIFIED is below all others; BLOCKED, STALE and
    UNTRIED support nothing, so they have the same ``rank`` and a gate treats them alike.
    """

    FALSIFIED = "FALSIFIED"
    STALE = "STALE"
    BLOCKED = "BLOCKED"
    UNTRIED = "UNTRIED"
    PARTIAL = "PARTIAL"
    FUNCTIONAL = "FUNCTIONAL"
    DISCHARGED = "DISCHARGED"

    @property
    def rank(self) -> int:
        """How much is supported: 0 for FALSIFIED, 1 for nothing, then 2, 3 and 4."""
        return _RANKS.get(self, 1)

    @property
    def is_stale(self) -> bool:
        """Whether the evidence was made with something else than what is there today."""
        return self is Status.STALE

    @classmethod
    def parse(cls, text: str) -> Status:
        """Return the status with a name, or with one of the field's long names.

        Raises:
            LedgerError: when no status has that name.
        """
        name = text.strip().upper()
        try:
            return cls(_ALIASES.get(name, name))
        except ValueError:
            msg = f"{text!r} is not a status"
            raise LedgerError(msg, expected=", ".join(each.value for each in cls)) from None


_RANKS = {Status.FALSIFIED: 0, Status.PARTIAL: 2, Status.FUNCTIONAL: 3, Status.DISCHARGED: 4}
_ALIASES = {
    "ALGORITHM_LEVEL_DISCHARGED": "PARTIAL",
    "BLOCKER_FIXTURE_ABSENT": "BLOCKED",
    "PARTIAL_ALGORITHM_LEVEL": "PARTIAL",
    "PROPOSED": "UNTRIED",
}
_ORDER = tuple(Status)

_MOST_JUDGED = 1024
_JUDGED: dict[Hashable, tuple[Status, str]] = {}


def weakest(statuses: Iterable[Status]) -> Status:
    """Return the worst of some statuses; UNTRIED when there are none."""
    return min(statuses, key=_ORDER.index, default=Status.UNTRIED)


def judge(block: FalsifierBlock) -> tuple[Status, str]:
    """Return the status that the evidence on file supports, and why, in plain words.

    The words name everything that further evidence could improve, so a record that changes
    neither status nor words adds nothing to a ledger. Blocks that are alike are judged once.
    """
    likeness = block.likeness
    known = _JUDGED.get(likeness)
    if known is None:
        if len(_JUDGED) >= _MOST_JUDGED:
            _JUDGED.clear()
        known = _JUDGED[likeness] = judge_anew(block)
    return known


def judge_anew(block: FalsifierBlock) -> tuple[Status, str]:
    """Return what ``judge`` returns, without remembering how blocks like it were judged."""
    seen = trials(block)
    refuted = [each for each in seen if each.refuted]
    if refuted:
        return Status.FALSIFIED, "; ".join(_refuted(each) for each in refuted)
    status, best = _supported(seen, block.discharge)
    if best is None:
        return _unsupported(block, seen)
    words = _WORDS[status](best, block.discharge)
    notes = [_short_note(block, each) for each in seen if each is not best and not each.held]
    return status, "; ".join([words, *filter(None, notes)])


def spokesman(held: Sequence[Evidence]) -> Evidence:
    """Return the record that speaks for confirmations none of which can discharge.

    It is chosen by what makes up its id alone, so the choice commutes with uniting sets.
    """
    live = [each for each in held if each.source is Source.LIVE]
    return min(live or held, key=lambda each: (not each.has_caught_all, each.caveats, each.id))


def support(held: Sequence[Evidence], discharge: Discharge) -> Status:
    """Return what confirmations of one target with the same digests support by themselves."""
    if not held:
        return Status.UNTRIED
    accepted = [each for each in held if discharge.accepts(each)]
    if accepted and not discharge.missing(accepted):
        return Status.DISCHARGED
    is_live = any(each.source is Source.LIVE for each in held)
    return Status.FUNCTIONAL if is_live else Status.PARTIAL


def noun(name: str) -> str:
    """Return what a digest stands for, as it is said in a sentence."""
    return "target's declaration" if name == "declared" else name


def discharge_needs(block: FalsifierBlock) -> tuple[str, ...]:
    """Return in words what a claim that held live still lacks before it is DISCHARGED."""
    status, best = _supported(trials(block), block.discharge)
    return _needs(best, block.discharge) if best and status is Status.FUNCTIONAL else ()


def _supported(seen: Sequence[Trial], discharge: Discharge) -> tuple[Status, Trial | None]:
    ranked = [(support(each.held, discharge), each) for each in seen if each.held]
    if not ranked:
        return Status.UNTRIED, None
    highest = max(status.rank for status, _ in ranked)
    best = [pair for pair in ranked if pair[0].rank == highest]
    if len(best) == 1:
        return best[0]
    return max(best, key=lambda pair: _machines(pair[1], discharge))


def _accepted(trial: Trial, discharge: Discharge) -> list[Evidence]:
    return [each for each in trial.held if discharge.accepts(each)]


def _machines(trial: Trial, discharge: Discharge) -> int:
    return discharge.machines_in(_accepted(trial, discharge))


def _unsupported(block: FalsifierBlock, seen: Sequence[Trial]) -> tuple[Status, str]:
    words = "; ".join(filter(None, (_note(block, each) for each in seen)))
    if any(each.stale for each in seen):
        return Status.STALE, words
    if any(each.blocked and not each.inconclusive for each in seen):
        return Status.BLOCKED, words
    return Status.UNTRIED, words or "no evidence"


def _refuted(trial: Trial) -> str:
    return f"refuted on {trial.target}{_reason(trial.refuted)}"


def _partial(trial: Trial, _: Discharge) -> str:
    source = spokesman(trial.held).source.value
    return f"held on {trial.target} ({source}){_missed(trial)}; FUNCTIONAL needs a live target"


def _functional(trial: Trial, discharge: Discharge) -> str:
    count = _machines(trial, discharge)
    machines = f" ({count} machine{'s' if count > 1 else ''})" if count else ""
    needs = " and ".join(_needs(trial, discharge))
    flaws = f"{_missed(trial)}{_caveats(trial, discharge)}"
    return f"held live on {trial.target}{machines}{flaws}; DISCHARGED needs {needs}"


def _missed(trial: Trial) -> str:
    """Return how many planted faults were caught, where that is not all of them."""
    best = spokesman(trial.held)
    if best.fault_counts is None or best.has_caught_all:
        return ""
    caught, planted = best.fault_counts
    return f", vacuous: {caught} of {planted} planted faults caught"


def _caveats(trial: Trial, discharge: Discharge) -> str:
    """Return what keeps a confirmation from counting, where nothing better is on file."""
    if _accepted(trial, discharge) or not (caveats := spokesman(trial.held).caveats):
        return ""
    return f", with caveats: {'; '.join(caveats)}"


def _needs(trial: Trial, discharge: Discharge) -> tuple[str, ...]:
    accepted = _accepted(trial, discharge)
    if accepted:
        return discharge.missing(accepted)
    best = spokesman(trial.held)
    if best.caveats and best.has_caught_all:
        return ("a run without caveats", *discharge.conditions()[1:])
    return discharge.conditions()


def _discharged(trial: Trial, discharge: Discharge) -> str:
    if _machines(trial, discharge) == discharge.machines_needed:
        how = f"on {discharge.machines_needed} machines"
    else:
        how = "bit-equal to the oracle"
    return f"held live on {trial.target}, planted faults caught, {how}"


_WORDS = {
    Status.PARTIAL: _partial,
    Status.FUNCTIONAL: _functional,
    Status.DISCHARGED: _discharged,
}


def _short_note(block: FalsifierBlock, trial: Trial) -> str:
    """The note of a target beside a better one: what was absent there is in its evidence."""
    only_blocked = trial.blocked and not (trial.stale or trial.inconclusive)
    return f"blocked on {trial.target}" if only_blocked else _note(block, trial)


def _note(block: FalsifierBlock, trial: Trial) -> str:
    words = []
    if trial.stale:
        words.append(_stale(block, trial))
    if trial.inconclusive:
        words.append(f"inconclusive on {trial.target}{_reason(trial.inconclusive)}")
    elif trial.blocked:
        words.append(f"blocked on {trial.target}{_reason(trial.blocked)}")
    return "; ".join(words)


def _stale(block: FalsifierBlock, trial: Trial) -> str:
    was = f"was {_was(block, trial).value} on {trial.target}"
    today = block.today.get(trial.target, Digests())
    disputed = [name for name, value in today.items() if value == DISPUTED]
    if block.entry == DISPUTED or disputed:
        names = ["entry", *disputed] if block.entry == DISPUTED else disputed
        words = " and ".join(map(noun, names))
        return f"{was}; merged records disagree about the {words}: run it again"
    changed = {name for each in trial.stale for name in block.changed_since(each)}
    names = [name for name in ("entry", *Digests.NAMES) if name in changed]
    return f"{was} before the {' and '.join(map(noun, names))} changed"


def _was(block: FalsifierBlock, trial: Trial) -> Status:
    if any(each.outcome is Outcome.REFUTED for each in trial.stale):
        return Status.FALSIFIED
    groups: dict[object, list[Evidence]] = {}
    for each in trial.stale:
        groups.setdefault((each.entry, each.digests), []).append(each)
    return max((support(each, block.discharge) for each in groups.values()), key=_ORDER.index)


def _reason(evidence: Sequence[Evidence]) -> str:
    reasons = evidence[0].reasons
    return f": {' '.join(reasons[0].split())}" if reasons else ""
