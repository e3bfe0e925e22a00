"""Rules about numbers in prose: thresholds and counts that disagree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_falsify.contracts.lint.finding import Hit, Rule, Severity, Subject
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_falsify.contracts.problems import Steps

_THRESHOLD = re.compile(
    r"\b(?P<metric>cos(?:ine)?(?:[_ -]?sim(?:ilarity)?)?|rel_l2|nmse|max_abs(?:_diff)?|kl(?:_div)?"
    r"|perplexity|ppl)\b(?:\([^()]*\))?[^<>≥≤=\n;.]{0,40}?"
    r"(?P<operator>>=|<=|≥|≤|>|<)\s*(?P<value>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
)
_ALL = re.compile(
    r"\b[Aa]ll (?P<count>\d+) (?:falsif\w+|FALSIFY|contract) ?(?:tests?|entries|conditions)?"
)
_UPWARD = frozenset((">=", "≥", ">"))
_PROSE_ABOUT_THE_PAST = frozenset(("changelog", "amendment_history", "lessons_learned"))
_CLAIMED = ("l2_property_tested", "tested", "proven")


def _strings(value: Any, at: Steps = ()) -> Iterator[tuple[Steps, str]]:
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in _PROSE_ABOUT_THE_PAST:
                yield from _strings(inner, (*at, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _strings(inner, (*at, position))


def _several_thresholds(subject: Subject) -> Iterator[Hit]:
    found: dict[tuple[str, str], dict[float, tuple[Steps, str]]] = {}
    for at, text in _strings(subject.document.data):
        for match in _THRESHOLD.finditer(text):
            metric = "cosine" if match["metric"].startswith("cos") else match["metric"]
            direction = "at least" if match["operator"] in _UPWARD else "at most"
            bounds = found.setdefault((metric, direction), {})
            bounds.setdefault(float(match["value"]), (at, match["value"]))
    for (metric, direction), bounds in found.items():
        if len(bounds) > 1:
            lines = [f"{value} (line {subject.document.line(at)})" for at, value in bounds.values()]
            at, _ = next(iter(bounds.values()))
            yield Hit(at=at, text=f"{metric} is to be {direction} {', '.join(lines)}")


def _wrong_count(subject: Subject) -> Iterator[Hit]:
    yield from _gate_counts(subject)
    yield from _summary_counts(subject)


def _gate_counts(subject: Subject) -> Iterator[Hit]:
    actual = len(subject.contract.falsifiers)
    for at, text in _strings(subject.document.data.get("qa_gate"), ("qa_gate",)):
        for match in _ALL.finditer(text):
            if int(match["count"]) != actual:
                words = f"it says `{match.group().strip()}`, and there are {actual}"
                yield Hit(at=at, text=words)


def _summary_counts(subject: Subject) -> Iterator[Hit]:
    summary = subject.document.data.get("verification_summary")
    if not isinstance(summary, dict):
        return
    obligations = len(subject.contract.obligations)
    total = summary.get("total_obligations")
    if isinstance(total, int) and total != obligations:
        text = f"it says {number_of(total, 'obligation')}, and there are {obligations}"
        yield Hit(at=("verification_summary", "total_obligations"), text=text)
    harnesses = subject.document.data.get("kani_harnesses")
    yield from _too_many(summary, "l3_kani_proved", len(harnesses or ()), "harnesses")
    for key in _CLAIMED:
        yield from _too_many(summary, key, len(subject.contract.falsifiers), "falsifiers")
    claimed = [each.id for each in subject.contract.falsifiers if each.claimed_status]
    if summary.get("tested") == 0 and claimed:
        text = f"it says that nothing was tested, and {len(claimed)} falsifiers claim a status"
        yield Hit(at=("verification_summary", "tested"), text=text)


def _too_many(summary: dict[str, Any], key: str, most: int, noun: str) -> Iterator[Hit]:
    value = summary.get(key)
    if isinstance(value, int) and value > most:
        text = f"`{key}` is {value}, and there are {most} {noun}"
        yield Hit(at=("verification_summary", key), text=text)


RULES = (
    Rule(
        id="several-thresholds",
        reason="One metric with several thresholds: whichever is missed, another one was met.",
        severity=Severity.WARNING,
        look=_several_thresholds,
    ),
    Rule(
        id="wrong-count",
        reason="A count kept by hand disagrees with what the file holds.",
        severity=Severity.ERROR,
        look=_wrong_count,
    ),
)
