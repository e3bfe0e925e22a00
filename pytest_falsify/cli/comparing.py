"""What `pytest-falsify compare` reads and prints; the commands themselves are in ``captures``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_falsify.captures.folder import read_captures
from pytest_falsify.captures.unstated import FLAT, agreed, states_inputs
from pytest_falsify.checks.head_major import head_major_sites
from pytest_falsify.checks.side_by_side import Conclusion, Standing
from pytest_falsify.compare.alignment import ALIGN_SCHEMA, aligned, parse_alignments
from pytest_falsify.contracts.loader import parse, read
from pytest_falsify.contracts.problems import raise_any
from pytest_falsify.contracts.schemas import Shape
from pytest_falsify.errors import ContractError
from pytest_falsify.report.comparison import comparison_json, comparison_table, uncalibrated
from pytest_falsify.stages.vocabulary import STAGES
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.contracts.loader import Document

_WORDS = {Standing.WITHIN: "within", Standing.BEYOND: "beyond", Standing.UNDECIDED: "undecided"}


def read_sides(
    paths: Mapping[str, Path], *, ignore_unknown: bool, align: Mapping[str, Any] | None = None
) -> tuple[dict[str, Capture], tuple[str, ...]]:
    """Return the captures by role with what their formats leave out, and what was supplied.

    Args:
        paths: by role.
        ignore_unknown: leave out tensors whose names are no sites.
        align: steps that bring a side into the layout of the others; see ``compare.alignment``.

    Raises:
        FalsifyError: when one cannot be read, or they are not of one population.
    """
    steps = parse_alignments(align or {})
    found = {
        role: read_captures(path, ignore_unknown=ignore_unknown, any_axes=role in steps)
        for role, path in paths.items()
    }
    notes = [note for role, each in found.items() for note in _notes(role, each)]
    settled = dict(zip(found, agreed(list(found.values())), strict=True))
    notes += _cuts(found, settled)
    settled = aligned(settled, steps)
    untouched = {role: each for role, each in found.items() if role not in steps}
    notes += _head_major(untouched, settled)
    notes += [
        f"the {role} is brought into shape, {number_of(len(each), 'step')}"
        for role, each in steps.items()
    ]
    return settled, tuple(notes)


def read_expectations(texts: Sequence[str]) -> dict[str, Any] | None:
    """Return limits from YAML texts and files, the later over the earlier, or None for none.

    A file may have them under ``expect:``, as a falsifier does.

    Raises:
        ContractError: when one is not a mapping of metrics.
    """
    limits: dict[str, Any] = {}
    for text in texts:
        for metric, sides in _expectation(text).items():
            known = limits.get(metric, {})
            limits[metric] = {**known, **sides} if isinstance(sides, dict) else sides
    return limits or None


def read_alignment(texts: Sequence[str]) -> dict[str, Any]:
    """Return the steps of each side from YAML texts and files.

    A file may have them under ``align:``, as a falsifier does.

    Raises:
        ContractError: when one is not what ``ALIGN_SCHEMA`` accepts.
    """
    found: dict[str, Any] = {}
    for text in texts:
        document = _document(text, Path("--align"))
        value = _under(document.data, "align")
        raise_any(list(Shape(ALIGN_SCHEMA).violations(value)), document)
        found |= value
    return found


def rendered(
    conclusion: Conclusion, sides: Mapping[str, Path], notes: Sequence[str], *, is_full: bool
) -> list[str]:
    """Return what a person reads: the conclusion first, then the table."""
    mark = uncalibrated(conclusion.calibration)
    lines = [f"{_WORDS[conclusion.standing]}{mark}: {conclusion.reason}"]
    lines += [f"  {role + ':':<9} {path}" for role, path in sides.items()]
    lines += [f"  note:     {note}" for note in notes]
    if conclusion.judged.comparison.sites:
        lines += ["", *comparison_table(conclusion.judged, is_full=is_full)]
    return lines


def as_json(
    conclusion: Conclusion,
    sides: Mapping[str, Path],
    captures: Mapping[str, Capture],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return what a program reads; numbers that are not finite are strings."""
    compared = comparison_json(conclusion.judged)
    return {
        "standing": _WORDS[conclusion.standing],
        "calibration": conclusion.calibration,
        "reason": conclusion.reason,
        "would_pass": conclusion.judged.advice or None,
        "notes": list(notes),
        "captures": {
            role: {"path": str(path), "identity": captures[role].identity.digest}
            for role, path in sides.items()
        },
        "missing": compared["missing"],
        "sites": compared["sites"],
    }


def _notes(role: str, capture: Capture) -> list[str]:
    notes = []
    if not states_inputs(capture):
        notes.append(f"the {role} does not say what it was fed; taken to be the same tokens")
    flat = sum(each.dims == FLAT for each in capture.tensors.values())
    if flat:
        stating = number_of(flat, f"tensor of the {role} states", f"tensors of the {role} state")
        notes.append(f"{stating} no shape; read token-major")
    return notes


def _head_major(found: Mapping[str, Capture], settled: Mapping[str, Capture]) -> list[str]:
    """Return which side's heads seem to be in another order than they were read in."""
    opposite = {"subject": "oracle", "oracle": "subject", "control": "oracle"}
    notes = []
    for role, each in found.items():
        sites = head_major_sites(each, settled[role], settled[opposite[role]])
        if sites:
            told = f"{sites[0]} and {len(sites) - 1} more" if len(sites) > 1 else str(sites[0])
            stages = dict.fromkeys(site.stage for site in sites)
            steps = ", ".join(map(_head_major_step, stages))
            mended = f"--align '{{{role}: [{steps}]}}'"
            notes.append(f"the {role} seems to be head-major at {told}: {mended}")
    return notes


def _head_major_step(stage: str) -> str:
    tokens, heads, width = STAGES[stage].dims.split()
    return f"{{stages: [{stage}], order: {{dims: {heads} {tokens} {width}}}}}"


def _cuts(found: Mapping[str, Capture], settled: Mapping[str, Capture]) -> list[str]:
    """Return which sites were cut to the token that the other side holds."""
    cut = {
        site
        for role, each in found.items()
        for site, tensor in each.tensors.items()
        if len(settled[role].tensors[site].positions) < len(tensor.positions)
    }
    ordered = sorted(cut, key=lambda site: site.causal_key)
    return [f"{', '.join(map(str, ordered))}: the last token alone"] if cut else []


def _expectation(text: str) -> dict[str, Any]:
    document = _document(text, Path("--expect"))
    value = _under(document.data, "expect")
    if not isinstance(value, dict):
        msg = f"`{text}` holds no limits"
        expected = "a mapping such as {rel_l2: {max: 1e-3}}, or a YAML file of one"
        raise ContractError(msg, path=document.path, expected=expected)
    return value


def _document(text: str, option: Path) -> Document:
    """Return what an option's text spells, or the file that it names holds."""
    is_inline = text.lstrip().startswith("{") or "\n" in text
    return parse(text.encode(), option) if is_inline else parse(read(Path(text)), Path(text))


def _under(value: Any, key: str) -> Any:
    """Return what stands under a key that is alone, as in a falsifier, or the value itself."""
    return value[key] if isinstance(value, dict) and set(value) == {key} else value
