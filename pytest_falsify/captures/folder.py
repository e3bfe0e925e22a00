"""One door to captures on disk, whatever wrote them: bundles, APRT trees, safetensors, npy, npz."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.canonical import parse_json
from pytest_falsify.captures.aprt import SUFFIX as APRT_SUFFIX
from pytest_falsify.captures.aprt import is_aprt_file, read_aprt, read_single
from pytest_falsify.captures.bundle import is_bundle, read_bundle
from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.dump import NPZ, read_dump
from pytest_falsify.captures.manifest import APRT, MANIFEST, STATISTICS
from pytest_falsify.captures.tensor_file import dtype_named, read_tensors
from pytest_falsify.captures.unstated import FLAT, TOKENS, unstated_capture
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import ALIASES, STAGES, Scope, Site
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_falsify.captures.capture import Capture

    Array = np.ndarray[Any, Any]

TENSOR_SUFFIXES = (".safetensors", ".npy")
SPELLINGS = "0/3/attn_out, layer-3/attn_out, layers.3.attn_out, or lm_head"
_MOST_LISTED = 8
_NAME = re.compile(
    r"(?:(?:step[-_.]?)?(?P<step>\d+)/(?=-|\d|layer))?"
    r"(?:(?:-|(?:(?:model[./])?layers?[-_./]?)?(?P<layer>\d+))[./])?"
    r"(?P<stage>[A-Za-z_]+)"
)


def read_captures(path: Path, *, ignore_unknown: bool = False, any_axes: bool = False) -> Capture:
    """Read a capture from wherever it is.

    Args:
        path: a bundle, an APRT tree or file, or a folder (or one file) of ``.safetensors`` or of
            ``.npy`` whose tensors are named after their sites: see ``SPELLINGS``; or one file of
            caches: see ``dump``.
        ignore_unknown: leave out tensors whose names are no sites.
        any_axes: number the axes of an array that has not as many as its stage, instead of refusing
            it: whoever asks gives them names before they compare.

    Raises:
        CaptureError: when there is nothing that can be read, or not all of it can.
    """
    if not path.exists():
        msg = "there is no such file or folder"
        raise CaptureError(msg, path=path, expected="a capture")
    if path.is_dir():
        return _read_folder(path, ignore_unknown=ignore_unknown, any_axes=any_axes)
    if path.suffix in TENSOR_SUFFIXES:
        return _read_arrays(
            path.parent, [path], path.suffix, ignore_unknown=ignore_unknown, any_axes=any_axes
        )
    if path.suffix == NPZ:
        return read_dump(path)
    if path.name == MANIFEST:
        return _read_folder(path.parent, ignore_unknown=ignore_unknown, any_axes=any_axes)
    return read_single(path)


def is_statistics(path: Path) -> bool:
    """Tell whether a folder holds the numbers of a run and none of its tensors."""
    return _format(path) == STATISTICS


def site_named(name: str) -> Site | None:
    """Return the site that a tensor's name spells, or None when it spells none."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    stage = match["stage"].lower()
    stage = ALIASES.get(stage, stage)
    if stage not in STAGES:
        return None
    step, layer = int(match["step"] or 0), match["layer"]
    scope = STAGES[stage].scope
    if scope is Scope.LAYER:
        return Site(step, int(layer), stage) if layer is not None else None
    is_outside = layer is None or (scope is Scope.BEFORE and int(layer) == 0)
    return Site(step, None, stage) if is_outside else None


def _read_folder(folder: Path, *, ignore_unknown: bool, any_axes: bool) -> Capture:
    if is_statistics(folder):
        msg = "the statistics of a run are here, and none of its tensors"
        remedy = "look at them with `inspect`, or capture again with --keep tensors or sketches"
        raise CaptureError(msg, path=folder, remedy=remedy)
    if is_bundle(folder):
        return read_aprt(folder) if _format(folder) == APRT else read_bundle(folder)
    kinds = {suffix: sorted(folder.rglob(f"*{suffix}")) for suffix in TENSOR_SUFFIXES}
    kinds[APRT_SUFFIX] = [path for path in folder.rglob(f"*{APRT_SUFFIX}") if is_aprt_file(path)]
    found = {suffix: paths for suffix, paths in kinds.items() if paths}
    if len(found) != 1:
        msg = f"there are {' and '.join(found)} files here" if found else "there is no capture here"
        expected = f"{MANIFEST}, or files of one kind: {', '.join(kinds)}"
        raise CaptureError(msg, path=folder, expected=expected)
    suffix, paths = next(iter(found.items()))
    if suffix == APRT_SUFFIX:
        return read_aprt(folder)
    return _read_arrays(folder, paths, suffix, ignore_unknown=ignore_unknown, any_axes=any_axes)


def _format(folder: Path) -> object:
    """Return the format that a manifest states; a broken one is refused by its reader."""
    try:
        body = parse_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return body.get("format") if isinstance(body, dict) else None


def _read_arrays(
    folder: Path, paths: list[Path], suffix: str, *, ignore_unknown: bool, any_axes: bool
) -> Capture:
    tensors: dict[Site, CapturedTensor] = {}
    unknown: list[str] = []
    for path, name, array in _named_arrays(folder, paths):
        site = site_named(name)
        if site is None:
            unknown.append(name)
        elif site in tensors:
            msg = f"`{name}` is {site}, which is there already"
            raise CaptureError(msg, path=path, expected="one tensor for each site")
        else:
            tensors[site] = _described(site, array, path, any_axes=any_axes)
    if unknown and not ignore_unknown:
        _refuse_unknown(folder if len(paths) != 1 else paths[0], unknown)
    if not tensors:
        msg = "not one tensor here is named after a site"
        raise CaptureError(msg, path=folder, expected=SPELLINGS)
    return unstated_capture(tensors, source=suffix.removeprefix("."))


def _named_arrays(folder: Path, paths: list[Path]) -> Iterator[tuple[Path, str, Array]]:
    for path in paths:
        if path.suffix == ".npy":
            yield path, path.relative_to(folder).with_suffix("").as_posix(), _read_npy(path)
        else:
            for name, array in read_tensors(path).items():
                yield path, name, array


def _read_npy(path: Path) -> Array:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        msg = f"it cannot be read: {error}"
        raise CaptureError(
            msg, path=path, expected="an array of numbers, in NumPy's format"
        ) from error
    if not isinstance(found, np.ndarray) or dtype_named(found.dtype.name) is None:
        msg = f"it holds {getattr(found, 'dtype', 'no array')}"
        remedy = "NumPy's format forgets bfloat16 and fp8: write them as safetensors"
        raise CaptureError(msg, path=path, expected="an array of numbers", remedy=remedy)
    return np.asarray(found)


def _described(site: Site, array: Array, path: Path, *, any_axes: bool) -> CapturedTensor:
    """Return an array with its stage's dims; flat where it has one axis, without a batch of one."""
    dims = STAGES[site.stage].dims
    if array.ndim == len(dims.split()) + 1 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 1:
        return CapturedTensor(array=array, dims=FLAT, positions=())
    if array.ndim != len(dims.split()) and any_axes:
        return CapturedTensor(array=array, dims=" ".join(map(str, range(array.ndim))), positions=())
    if array.ndim != len(dims.split()):
        msg = f"{site} has the shape {list(array.shape)}"
        raise CaptureError(msg, path=path, expected=f"the axes `{dims}`, or one axis")
    tokens = array.shape[dims.split().index(TOKENS)]
    return CapturedTensor(array=array, dims=dims, positions=tuple(range(tokens)))


def _refuse_unknown(path: Path, names: list[str]) -> None:
    shown = [_with_nearest(name) for name in names[:_MOST_LISTED]]
    more = [f"and {len(names) - _MOST_LISTED} more"] if len(names) > _MOST_LISTED else []
    what = number_of(len(names), "name is no site", "names are no sites")
    msg = f"{what}: {', '.join([*shown, *more])}"
    raise CaptureError(
        msg, path=path, expected=SPELLINGS, remedy="rename them, or --ignore-unknown"
    )


def _with_nearest(name: str) -> str:
    stage = re.split(r"[./]", name)[-1]
    if stage.lower() in {*STAGES, *ALIASES}:
        is_layered = STAGES[ALIASES.get(stage.lower(), stage.lower())].scope is Scope.LAYER
        return f"`{name}` ({'in which layer?' if is_layered else 'in no layer'})"
    close = difflib.get_close_matches(stage.lower(), [*STAGES, *ALIASES], n=1)
    return f"`{name}` ({name.removesuffix(stage)}{close[0]}?)" if close else f"`{name}`"
