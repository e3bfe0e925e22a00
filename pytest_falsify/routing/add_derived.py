"""What was derived, put into a run's folder; not a byte of what was recorded changes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pytest_falsify.canonical import canonical_text, digest
from pytest_falsify.captures.new_folder import new_folder, sync
from pytest_falsify.routing.derive import VERSION, derive
from pytest_falsify.routing.documents import (
    CONTINGENCY,
    DERIVED,
    MANIFEST,
    MOTIF_LEDGER,
    document_text,
)
from pytest_falsify.routing.full_run import derived_texts
from pytest_falsify.routing.routing_v1 import PROFILE, bytes_digest
from pytest_falsify.routing.run import is_run, read_run

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_falsify.routing.run import Run

DERIVED_FILES = frozenset({DERIVED, MOTIF_LEDGER, CONTINGENCY})


def add_derived(folder: Path, config: str) -> Run:
    """Derive from a run and write it again with what was derived, whole or not at all.

    Args:
        folder: of the run.
        config: see ``derive``.

    Raises:
        CaptureError: when the run is not right, or there is no such configuration.
    """
    run = read_run(folder)
    texts = derived_texts(derive(run.routing, config))
    manifest = {**run.manifest, "derivation_version": VERSION, "derivation_config_id": config}
    with new_folder(folder, replaces=is_run) as temporary:
        for each in folder.iterdir():
            if each.name not in DERIVED_FILES | {MANIFEST}:
                shutil.copyfile(each, temporary / each.name)
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        if run.profile == PROFILE:
            files = {each.name: bytes_digest(each) for each in sorted(temporary.iterdir())}
            body = {key: value for key, value in manifest.items() if key != "digest"}
            body["files"] = files
            text = canonical_text({**body, "digest": digest(body)})
        else:
            text = document_text(manifest)
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        for each in temporary.iterdir():
            sync(each)
    return read_run(folder)
