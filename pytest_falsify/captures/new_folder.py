"""A folder that is there whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Recognise = Callable[[Path], bool]


@contextmanager
def new_folder(path: Path, *, replaces: Recognise | None = None) -> Iterator[Path]:
    """Give a temporary folder beside ``path``, and rename it to ``path`` when all went well.

    Whoever fills it syncs the files; the folders are synced here.

    Args:
        path: the folder to be.
        replaces: tells whether the folder that is already there may give way; None: none may.

    Raises:
        CaptureError: when something is already there that may not be replaced.
    """
    must_be_free(path, replaces=replaces)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    temporary.mkdir()
    try:
        yield temporary
        for folder in (*(each for each in temporary.rglob("*") if each.is_dir()), temporary):
            sync(folder)
        _put(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


def must_be_free(path: Path, *, replaces: Recognise | None = None) -> None:
    """Refuse a place where something stands that may not be replaced; see ``new_folder``."""
    is_empty = path.is_dir() and not any(path.iterdir())
    if not path.exists() or is_empty or (replaces is not None and replaces(path)):
        return
    msg = "there is already something here that is no capture of ours"
    if replaces is None:
        msg = "there is already something here"
    raise CaptureError(msg, path=path, remedy="name another folder, or remove this one")


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    old = temporary.with_suffix(".old")
    path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old)
