"""What is in a capture and how it came to be, for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.captures.unstated import states_inputs
from pytest_falsify.stages.vocabulary import in_order
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pytest_falsify.captures.capture import Capture, CapturedTensor

_FEW = 16
_MEGABYTE = 1_000_000


def provenance_lines(capture: Capture, path: Path) -> list[str]:
    """Return what a person reads: provenance, then one line a stage."""
    identity = capture.identity
    facts = {
        "engine": " ".join([identity.engine, *_pairs(identity.versions)]),
        "settings": " ".join(_pairs(identity.settings)) or "unstated",
        "device": " ".join(filter(None, [identity.device, identity.device_name])) or "unstated",
        "weights": identity.weights,
        "identity": identity.digest if states_inputs(capture) else "unstated",
        "inputs": _inputs(capture),
        "decoded": ", ".join(map(str, capture.continuation)) or "nothing",
        "layers": _spans(_layers(capture)) or "none",
        "missing": ", ".join(map(str, capture.missing)) or "nothing",
        "size": f"{number_of(len(capture.tensors), 'site')}, {size_of(capture.nbytes)}",
        "digests": "all as they were written" if states_inputs(capture) else "none to check",
    }
    lines = [str(path), *(f"  {name + ':':<10} {value}" for name, value in facts.items()), ""]
    return [*lines, *_stage_lines(capture)]


def provenance_json(capture: Capture) -> dict[str, Any]:
    """Return what a program reads."""
    identity = capture.identity
    return {
        "identity": {
            "device": identity.device,
            "device_name": identity.device_name,
            "digest": identity.digest,
            "engine": identity.engine,
            "settings": dict(identity.settings),
            "versions": dict(identity.versions),
            "weights": identity.weights,
        },
        "inputs": {"name": capture.inputs.name, "tokens": list(capture.inputs.tokens)},
        "plan": capture.plan.to_json(),
        "continuation": list(capture.continuation),
        "layers": _layers(capture),
        "missing": [str(site) for site in capture.missing],
        "bytes": capture.nbytes,
        "sites": [
            {
                "site": str(site),
                "dims": each.dims,
                "shape": list(each.array.shape),
                "dtype": each.array.dtype.name,
                "mask": each.mask,
                "bytes": int(each.array.nbytes),
            }
            for site, each in capture.tensors.items()
        ],
    }


def _stage_lines(capture: Capture) -> Iterable[str]:
    rows = [["stage", "sites", "dims", "shape", "dtype", "size"]]
    for name in in_order(site.stage for site in capture.tensors):
        found = [each for site, each in capture.tensors.items() if site.stage == name]
        rows.append(_row(name, found))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in {1, 5} else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  " + "  ".join(cells).rstrip()


def _row(name: str, found: Sequence[CapturedTensor]) -> list[str]:
    return [
        name,
        str(len(found)),
        _one(each.dims for each in found),
        _one("x".join(map(str, each.array.shape)) for each in found),
        _one(each.array.dtype.name for each in found),
        size_of(sum(each.array.nbytes for each in found)),
    ]


def _one(values: Iterable[str]) -> str:
    """Return what all values are, or how many there are."""
    found = tuple(dict.fromkeys(values))
    return found[0] if len(found) == 1 else f"{found[0]} and {len(found) - 1} other"


def _inputs(capture: Capture) -> str:
    tokens = capture.inputs.tokens
    if not tokens:
        return "unstated"
    shown = ", ".join(map(str, tokens[:_FEW])) + (", ..." if len(tokens) > _FEW else "")
    return f"`{capture.inputs.name}`, {number_of(len(tokens), 'token')}: {shown}"


def _layers(capture: Capture) -> list[int]:
    return sorted({site.layer for site in capture.tensors if site.layer is not None})


def _spans(numbers: Sequence[int]) -> str:
    if len(numbers) > 1 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}..{numbers[-1] + 1}"
    return ", ".join(map(str, numbers))


def _pairs(values: Any) -> list[str]:
    return [f"{name}={value}" for name, value in sorted(values.items())]


def size_of(count: int) -> str:
    """Return a number of bytes as people read it: ``34.0 kB``."""
    unit, size = ("MB", 1e6) if count >= _MEGABYTE else ("kB", 1e3)
    return f"{count / size:.1f} {unit}"
