"""What is in a capture and how it came to be, for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.captures.summary import Statistics, summaries_to_json
from pytest_falsify.captures.unstated import states_inputs
from pytest_falsify.report.table import aligned
from pytest_falsify.stages.vocabulary import in_order
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from pytest_falsify.captures.capture import Capture, CapturedTensor, Identity
    from pytest_falsify.stages.vocabulary import Site

_FEW = 16
_MEGABYTE = 1_000_000
_WORDS = ("stage", "site", "dims", "shape", "dtype")
"""Columns of words, which begin at the left; numbers end at the right."""


def provenance_lines(found: Capture | Statistics, path: Path) -> list[str]:
    """Return what a person reads: provenance, then a line a stage, or a site of statistics."""
    if isinstance(found, Statistics):
        capture, sites, size = found.run, tuple(found.sites), "none of their values"
        table = _site_rows(found)
    else:
        capture, sites, size = found, tuple(found.tensors), size_of(found.nbytes)
        table = _stage_rows(found)
    identity = capture.identity
    facts = {
        "engine": " ".join([identity.engine, *_pairs(identity.versions)]),
        "settings": " ".join(_pairs(identity.settings)) or "unstated",
        "device": " ".join(filter(None, [identity.device, identity.device_name])) or "unstated",
        "weights": identity.weights,
        "identity": identity.digest if states_inputs(capture) else "unstated",
        "inputs": _inputs(capture),
        "decoded": ", ".join(map(str, capture.continuation)) or "nothing",
        "layers": _spans(_layers(sites)) or "none",
        "missing": ", ".join(map(str, capture.missing)) or "nothing",
        "size": f"{number_of(len(sites), 'site')}, {size}",
        "digests": "all as they were written" if states_inputs(capture) else "none to check",
    }
    lines = [str(path), *(f"  {name + ':':<10} {value}" for name, value in facts.items()), ""]
    return [*lines, *(f"  {line}" for line in aligned(list(table), _WORDS))]


def provenance_json(found: Capture | Statistics) -> dict[str, Any]:
    """Return what a program reads."""
    if isinstance(found, Statistics):
        sites = summaries_to_json(found.sites)
        return {**provenance_json(found.run), "layers": _layers(found.sites), "sites": sites}
    return {
        "identity": _identity_json(found.identity),
        "inputs": {"name": found.inputs.name, "tokens": list(found.inputs.tokens)},
        "plan": found.plan.to_json(),
        "continuation": list(found.continuation),
        "layers": _layers(found.tensors),
        "missing": [str(site) for site in found.missing],
        "bytes": found.nbytes,
        "sites": [
            {
                "site": str(site),
                "dims": each.dims,
                "shape": list(each.array.shape),
                "dtype": each.array.dtype.name,
                "mask": each.mask,
                "bytes": int(each.array.nbytes),
            }
            for site, each in found.tensors.items()
        ],
    }


def _identity_json(identity: Identity) -> dict[str, Any]:
    return {
        "device": identity.device,
        "device_name": identity.device_name,
        "digest": identity.digest,
        "engine": identity.engine,
        "settings": dict(identity.settings),
        "versions": dict(identity.versions),
        "weights": identity.weights,
    }


def _stage_rows(capture: Capture) -> Iterator[list[str]]:
    yield ["stage", "sites", "dims", "shape", "dtype", "size"]
    for name in in_order(site.stage for site in capture.tensors):
        yield _row(name, [each for site, each in capture.tensors.items() if site.stage == name])


def _site_rows(statistics: Statistics) -> Iterator[list[str]]:
    yield ["site", "shape", "dtype", "mean", "rms", "smallest", "largest", "NaN or inf"]
    for site, each in statistics.sites.items():
        numbers = (each.mean, each.rms, each.smallest, each.largest)
        yield [
            str(site),
            _by(each.shape),
            each.dtype,
            *(f"{number:.4g}" for number in numbers),
            str(each.nonfinite or "-"),
        ]


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def _row(name: str, found: Sequence[CapturedTensor]) -> list[str]:
    return [
        name,
        str(len(found)),
        _one(each.dims for each in found),
        _one(_by(each.array.shape) for each in found),
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


def _layers(sites: Iterable[Site]) -> list[int]:
    return sorted({site.layer for site in sites if site.layer is not None})


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
