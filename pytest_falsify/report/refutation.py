"""What a refuted claim looks like on the terminal."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from pytest_falsify.report.chain import chain_table
from pytest_falsify.report.comparison import beyond_of, comparison_table
from pytest_falsify.report.counted import counted_table

if TYPE_CHECKING:
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.verdict import Verdict


def render_refutation(
    claim: Claim, verdict: Verdict, *, place: str, command: str, is_full: bool
) -> str:
    """Return the text of a refutation: the place and reason first, then what was seen.

    Args:
        claim: what was refuted.
        verdict: why.
        place: ``path:line`` of the falsifier.
        command: what runs this one item again.
        is_full: show every site, not only those around the first one beyond its limit.
    """
    falsifier = claim.falsifier
    lines = [f"{place}: refuted: {'; '.join(verdict.reasons)}"]
    lines += _labelled("rule", falsifier.rule)
    lines += _labelled("predicted", falsifier.prediction)
    lines += _labelled("then", falsifier.if_fails)
    for judged in verdict.judged:
        if beyond_of(judged):
            lines += ["", *comparison_table(judged, is_full=is_full)]
    for label, chain in verdict.chains.items():
        lines += ["", f"  input `{label}`, {len(chain.guilty)} of {len(chain.links)} guilty:"]
        lines += [f"  {line}" for line in chain_table(chain, is_full=is_full)]
    if verdict.counted is not None:
        lines += ["", *(f"  {line}" for line in counted_table(verdict.counted))]
    lines += ["", f"  again:     {command}"]
    lines += [f"  one of them: {line}" for line in _one_of_them(verdict, command)]
    return "\n".join(lines)


def _one_of_them(verdict: Verdict, command: str) -> list[str]:
    """Return what runs one prompt that differs again, where many were tried."""
    if verdict.counted is None or not verdict.counted.differing:
        return []
    item = command.partition("'")[2].partition("'")[0]
    return [f"pytest-falsify prompt '{item}' {quote(verdict.counted.differing[0].id)}"]


def _labelled(label: str, text: str) -> list[str]:
    return [f"  {label + ':':<10} {' '.join(text.split())}"] if text else []
