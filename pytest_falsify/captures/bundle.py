"""A capture on disk: ``manifest.json`` and ``tensors.safetensors`` in a folder of their own.

Where only statistics are kept there is the manifest alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.captures.manifest import (
    AGAIN,
    MANIFEST,
    SAFETENSORS,
    STATISTICS,
    manifest_text,
    read_manifest,
)
from pytest_falsify.captures.new_folder import new_folder, sync
from pytest_falsify.captures.summary import Statistics
from pytest_falsify.captures.tensor_file import read_tensors, write_tensors
from pytest_falsify.errors import CaptureError
from pytest_falsify.words import number_are

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.captures.manifest import Manifest

TENSORS = "tensors.safetensors"


def write_bundle(capture: Capture, folder: Path, *, replace: bool = False) -> None:
    """Write a capture, whole or not at all: into a folder beside, synced, then renamed.

    Args:
        capture: what to write.
        folder: the folder to be.
        replace: let a bundle that is already there give way.

    Raises:
        CaptureError: when something else is there, or a dtype cannot be stored.
    """
    arrays = {str(site): each.array for site, each in capture.tensors.items()}
    arrays |= {_logits_name(step): each for step, each in enumerate(capture.logits)}
    with new_folder(folder, replaces=is_bundle if replace else None) as temporary:
        write_tensors(temporary / TENSORS, arrays)
        text = manifest_text(
            capture,
            form=SAFETENSORS,
            files=dict.fromkeys(capture.tensors, TENSORS),
            logits=[TENSORS] * len(capture.logits),
        )
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        sync(temporary / MANIFEST)


def read_bundle(folder: Path) -> Capture:
    """Map a bundle and check every digest. The arrays are views of the file and cannot be written.

    Raises:
        CaptureError: when anything in it is not as it was written.
    """
    manifest = read_manifest(folder / MANIFEST)
    path = folder / TENSORS
    _must_be_stored_here(manifest, path)
    arrays = read_tensors(path)
    described = {str(each.site): each for each in manifest.tensors}
    described |= {_logits_name(step): each for step, each in enumerate(manifest.logits)}
    for names, what in (
        (described.keys() - arrays.keys(), "missing"),
        (arrays.keys() - described.keys(), "not in the manifest"),
    ):
        if names:
            msg = f"{number_are(len(names), 'tensor')} {what}, first `{min(names)}`"
            raise CaptureError(msg, path=path, remedy=AGAIN)
    for name, each in described.items():
        each.check(arrays[name], path, name)
    return manifest.capture(
        {
            each.site: each.with_values(arrays[str(each.site)])
            for each in manifest.tensors
            if each.site
        },
        [arrays[_logits_name(step)] for step in range(len(manifest.logits))],
    )


def write_statistics(statistics: Statistics, folder: Path, *, replace: bool = False) -> None:
    """Write the numbers of a run: a manifest alone; see ``write_bundle``."""
    text = manifest_text(
        statistics.run, form=STATISTICS, files={}, logits=(), statistics=statistics.sites
    )
    with new_folder(folder, replaces=is_bundle if replace else None) as temporary:
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        sync(temporary / MANIFEST)


def read_statistics(folder: Path) -> Statistics:
    """Read the numbers of a run.

    Raises:
        CaptureError: when the manifest is not as it was written, or there are tensors instead.
    """
    manifest = read_manifest(folder / MANIFEST)
    if manifest.format != STATISTICS:
        msg = f"the tensors are stored as {manifest.format}"
        raise CaptureError(msg, path=manifest.path, expected=STATISTICS)
    return Statistics(run=manifest.capture({}, ()), sites=manifest.statistics)


def is_bundle(path: Path) -> bool:
    """Tell whether a folder has a manifest, of whatever format its tensors are."""
    return (path / MANIFEST).is_file()


def _logits_name(step: int) -> str:
    return f"logits/{step}"


def _must_be_stored_here(manifest: Manifest, path: Path) -> None:
    if manifest.format != SAFETENSORS:
        msg = f"the tensors are stored as {manifest.format}"
        raise CaptureError(msg, path=manifest.path, expected=SAFETENSORS)
    for each in (*manifest.tensors, *manifest.logits):
        if each.file != path.name:
            msg = f"the manifest names `{each.file}`"
            raise CaptureError(msg, path=manifest.path, expected=path.name, remedy=AGAIN)
