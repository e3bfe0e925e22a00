"""APRT trees, as aprender's tracing writes them: ``layer-<N>/<stage>.bin`` and ``<stage>.bin``.

A file is ``b"APRT"``, the layer (u32, little-endian; 0xFFFFFFFF for the whole model), the number of
values (u32) and the values (float32). It states no shape, no dtype of the source, no positions and
no run; the name of the file is the stage. So a tree that we write has a manifest beside it, which
says all that, and by which a file of another run is found out.
"""

from __future__ import annotations

import difflib
import os
import re
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.captures.bundle import is_bundle
from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.manifest import AGAIN, APRT, MANIFEST, manifest_text, read_manifest
from pytest_falsify.captures.new_folder import new_folder, sync
from pytest_falsify.captures.unstated import FLAT, LAST_TOKEN_STAGES, as_ids, unstated_capture
from pytest_falsify.errors import CaptureError, FalsifyError
from pytest_falsify.stages.vocabulary import STAGES, Scope, Site, canonical
from pytest_falsify.words import number_are, number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pytest_falsify.captures.capture import Capture

    Array = np.ndarray[Any, Any]

MAGIC = b"APRT"
WHOLE_MODEL = 0xFFFFFFFF
SUFFIX = ".bin"
_HEADER = struct.Struct("<4sII")
_MOST_VALUES = 0xFFFFFFFF
_LARGEST_EXACT_ID = 1 << 24
_LAYER = re.compile(r"layer-(0|[1-9]\d*)")


def write_aprt(capture: Capture, folder: Path, *, replace_tree: bool = False) -> None:
    """Write the prefill of a capture as an APRT tree with a manifest, whole or not at all.

    Values become float32; float32 and bfloat16 keep every bit, NaN payloads included. Axes are put
    in the stage's own order (token-major). As in the field, ``embedding`` lies under ``layer-0``,
    and ``lm_head`` and the routing stages hold the last token alone.

    Raises:
        CaptureError: when the capture has decode steps, a dtype that float32 cannot hold, or
            something is already there.
    """
    if late := [site for site in capture.tensors if site.step]:
        msg = f"APRT has no place for decode steps: {number_of(len(late), 'site')}, first {late[0]}"
        raise CaptureError(msg, path=folder, remedy="capture without decode steps, or as a bundle")
    stored = {site: _as_stored(site, each) for site, each in capture.tensors.items()}
    text = manifest_text(
        replace(capture, tensors=stored, logits=(), continuation=()),
        form=APRT,
        files={site: aprt_path(site) for site in stored},
        logits=(),
    )
    with new_folder(folder, replaces=is_bundle if replace_tree else None) as temporary:
        for site, each in stored.items():
            path = temporary / aprt_path(site)
            path.parent.mkdir(exist_ok=True)
            write_aprt_file(path, each.array, layer=_header_layer(site))
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        sync(temporary / MANIFEST)


def read_aprt(folder: Path, *, expected: Iterable[Site] | None = None) -> Capture:
    """Read a tree: with its manifest where there is one, else as flat tensors.

    Args:
        folder: the tree.
        expected: the sites that the plan asked for; None: whatever is there.

    Raises:
        CaptureError: when a file is broken, names no stage, is missing, or is left from another
            run: one that neither the manifest nor the plan names, or whose bytes have changed.
        AlignmentError: when an id of an expert is no whole number.
    """
    files = _files(folder)
    has_manifest = (folder / MANIFEST).is_file()
    capture = _with_manifest(folder, files) if has_manifest else _without_manifest(folder, files)
    if expected is not None:
        _must_match(folder, set(capture.tensors), set(expected), "the plan")
    return capture


def aprt_path(site: Site) -> str:
    """Return where a site lies in a tree; a slash separates folder and file."""
    layer = _header_layer(site)
    return (
        f"{site.stage}{SUFFIX}" if layer == WHOLE_MODEL else f"layer-{layer}/{site.stage}{SUFFIX}"
    )


def write_aprt_file(path: Path, values: Array, *, layer: int) -> None:
    """Write one file and sync it.

    Args:
        path: the file; it must not exist.
        values: float32, of any shape; written in C order.
        layer: the layer, or ``WHOLE_MODEL``.

    Raises:
        CaptureError: when there are more values than the format can count.
    """
    if values.size > _MOST_VALUES:
        msg = f"{values.size} values are more than APRT can count"
        raise CaptureError(msg, path=path, remedy="write a bundle")
    with path.open("xb") as file:
        file.write(_HEADER.pack(MAGIC, layer, values.size))
        file.write(np.ascontiguousarray(values, dtype="<f4").data)
        file.flush()
        os.fsync(file.fileno())


def read_aprt_file(path: Path) -> tuple[int, Array]:
    """Return the layer and the values, flat float32, mapped from the file.

    Raises:
        CaptureError: when it is no APRT file, or its length is not the one it states.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
    except OSError as error:
        msg = f"it cannot be read: {error.strerror}"
        raise CaptureError(msg, path=path) from error
    if len(head) < _HEADER.size or not head.startswith(MAGIC):
        msg = "it is no APRT file"
        raise CaptureError(msg, path=path, expected="`APRT`, layer and count, twelve bytes")
    _, layer, count = _HEADER.unpack(head)
    if size != _HEADER.size + 4 * count:
        msg = f"it states {count} values, and has {size - _HEADER.size} bytes of them"
        raise CaptureError(msg, path=path, expected=f"{4 * count} bytes", remedy=AGAIN)
    if count == 0:
        return layer, np.zeros(0, np.float32)
    return layer, np.asarray(np.memmap(path, "<f4", mode="r", offset=_HEADER.size))


def is_aprt_file(path: Path) -> bool:
    """Tell whether a file begins as an APRT file does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_single(path: Path) -> Capture:
    """Read one file, whose name is the stage and whose header states the layer.

    Raises:
        CaptureError: when it is broken or its name is no stage.
    """
    stage = _stage(path, path.name)
    layer, values = read_aprt_file(path)
    in_layer = STAGES[stage].scope is Scope.LAYER
    if in_layer and layer == WHOLE_MODEL:
        msg = f"`{stage}` stands in a layer, and the header says the whole model"
        raise CaptureError(msg, path=path)
    return unstated_capture(
        {Site(0, layer if in_layer else None, stage): _flat(values)}, source=APRT
    )


def _header_layer(site: Site) -> int:
    if site.layer is not None:
        return site.layer
    return 0 if STAGES[site.stage].scope is Scope.BEFORE else WHOLE_MODEL


def _as_stored(site: Site, tensor: CapturedTensor) -> CapturedTensor:
    dims = STAGES[site.stage].dims
    names = tensor.dims.split()
    if sorted(names) != sorted(dims.split()):
        msg = f"{site} cannot be laid out as `{dims}`: {tensor.describe()}"
        raise CaptureError(msg)
    array = tensor.array.transpose([names.index(name) for name in dims.split()])
    positions = tensor.positions
    if site.stage in LAST_TOKEN_STAGES:
        array, positions = array[-1:], positions[-1:]
    return replace(tensor, array=_float32(site, array), dims=dims, positions=positions)


def _float32(site: Site, array: Array) -> Array:
    if array.dtype.kind in "iu":
        if array.size and int(np.abs(array).max()) > _LARGEST_EXACT_ID:
            msg = f"{site} has an id above {_LARGEST_EXACT_ID}, which float32 cannot hold"
            raise CaptureError(msg, remedy="write a bundle")
        return array.astype(np.float32)
    if array.dtype.itemsize > np.dtype(np.float32).itemsize:
        msg = f"{site} is {array.dtype}, which float32 cannot hold"
        raise CaptureError(msg, remedy="write a bundle")
    return np.ascontiguousarray(array.astype(np.float32, copy=False))


def _files(folder: Path) -> dict[Site, Path]:
    found: dict[Site, Path] = {}
    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        site = _site(folder, path)
        if site in found:
            msg = f"{site} is also {found[site].relative_to(folder)}"
            raise CaptureError(msg, path=path, expected="one file for each site")
        found[site] = path
    return found


def _site(folder: Path, path: Path) -> Site:
    *folders, name = path.relative_to(folder).parts
    layer = _LAYER.fullmatch(folders[0]) if len(folders) == 1 else None
    if folders and layer is None:
        msg = "this folder is none of an APRT tree's"
        raise CaptureError(msg, path=path, expected=f"layer-<N>/<stage>{SUFFIX} or <stage>{SUFFIX}")
    stage = _stage(path, name)
    scope = STAGES[stage].scope
    number = int(layer[1]) if layer else None
    is_first = number == 0 and scope is Scope.BEFORE
    if (scope is Scope.LAYER) != (number is not None) and not is_first:
        where = "in a layer" if scope is Scope.LAYER else "to the whole model"
        first = 0 if scope is Scope.LAYER else None
        msg = f"`{stage}` belongs {where}"
        raise CaptureError(msg, path=path, expected=aprt_path(Site(0, first, stage)))
    return Site(0, None if scope is not Scope.LAYER else number, stage)


def _stage(path: Path, name: str) -> str:
    spelt = name.removesuffix(SUFFIX)
    try:
        return canonical(spelt)
    except FalsifyError as error:
        close = difflib.get_close_matches(spelt, STAGES, n=1)
        msg = f"`{spelt}` is no stage"
        remedy = f"did you mean `{close[0]}`?" if close else "remove the file"
        raise CaptureError(msg, path=path, expected=error.expected, remedy=remedy) from error


def _flat(values: Array) -> CapturedTensor:
    return CapturedTensor(array=values, dims=FLAT, positions=())


def _values(path: Path, site: Site) -> Array:
    layer, values = read_aprt_file(path)
    allowed = {_header_layer(site)}
    if STAGES[site.stage].scope is Scope.BEFORE:
        allowed.add(WHOLE_MODEL)
    if layer not in allowed:
        said = "the whole model" if layer == WHOLE_MODEL else f"layer {layer}"
        msg = f"its header says {said}, and its place says {site}"
        raise CaptureError(msg, path=path, remedy="it is of another run: remove it")
    return values


def _without_manifest(folder: Path, files: Mapping[Site, Path]) -> Capture:
    if not files:
        msg = "there is no APRT file here"
        raise CaptureError(msg, path=folder, expected=f"layer-<N>/<stage>{SUFFIX}")
    tensors = {site: _flat(_values(path, site)) for site, path in files.items()}
    return unstated_capture(tensors, source=APRT)


def _with_manifest(folder: Path, files: Mapping[Site, Path]) -> Capture:
    manifest = read_manifest(folder / MANIFEST)
    named = {each.site: each for each in manifest.tensors if each.site is not None}
    if manifest.format != APRT or manifest.logits:
        msg = "the manifest is not that of an APRT tree"
        raise CaptureError(msg, path=manifest.path, remedy=AGAIN)
    _must_match(folder, set(files), set(named), "the manifest")
    tensors = {}
    for site, each in named.items():
        if each.file != files[site].relative_to(folder).as_posix():
            msg = f"the manifest names `{each.file}` for {site}"
            raise CaptureError(msg, path=files[site], remedy=AGAIN)
        flat = _values(files[site], site)
        if flat.size != int(np.prod(each.shape)):
            msg = f"it has {flat.size} values, and the manifest describes {list(each.shape)}"
            raise CaptureError(msg, path=files[site], remedy="it is of another run")
        array = flat.reshape(each.shape)
        each.check(array, files[site], str(site))
        tensors[site] = each.with_values(as_ids(site, array))
    return manifest.capture(tensors, ())


def _must_match(folder: Path, found: set[Site], wanted: set[Site], what: str) -> None:
    missing, surplus = (
        sorted(sites, key=lambda site: site.causal_key)
        for sites in (wanted - found, found - wanted)
    )
    if missing:
        sites = number_of(len(missing), f"site of {what} is", f"sites of {what} are")
        msg = f"{sites} missing: {_listed(missing)}"
        raise CaptureError(msg, path=folder, remedy=AGAIN)
    if surplus:
        files = number_are(len(surplus), "file")
        msg = f"{files} not in {what}, left from another run: {_listed(surplus)}"
        raise CaptureError(msg, path=folder, remedy="capture into an empty folder")


def _listed(sites: list[Site]) -> str:
    most = 5
    shown = ", ".join(aprt_path(site) for site in sites[:most])
    return shown if len(sites) <= most else f"{shown}, ..."
