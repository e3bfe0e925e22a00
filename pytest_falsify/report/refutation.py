"""What a refuted claim looks like on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.report.chain import chain_table
from pytest_falsify.report.comparison import beyond_of, comparison_table

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
    lines += ["", f"  again:     {command}"]
    return "\n".join(lines)


def _labelled(label: str, text: str) -> list[str]:
    return [f"  {label + ':':<10} {' '.join(text.split())}"] if text else []
