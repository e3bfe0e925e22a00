"""Digests of files, fifteen gigabytes of weights among them: what has not changed is read once.

What a digest was made of is remembered by the file's stat, in this process and, for large files, in
the user's cache folder. A file that the hub's cache names by its own SHA-256 is not read at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from pytest_falsify.canonical import digest_bytes, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGE = 1 << 20
"""From this size on a digest is remembered on disk; smaller files are read as fast."""
_BLOCK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SETTLED_NS = 2 * 10**9
"""Within this time a file may change again without a new time stamp (as in git's racy index)."""

Stamp = tuple[int, int, int, int, int]
_known: dict[tuple[Path, Stamp], str] = {}


def file_digest(file: Path) -> str:
    """Return ``sha256:...`` of a file; one that has not changed is not read again.

    Raises:
        OSError: when it cannot be read.
    """
    real = file.resolve(strict=True)
    named = _named_by_the_hub(real)
    if named is not None:
        return named
    stamp = _stamp(real.stat())
    found = _known.get((real, stamp)) or _remembered(real, stamp)
    if found is None:
        found = _read(real)
        if stamp != _stamp(real.stat()) or not _is_settled(stamp):
            return found
        _remember(real, stamp, found)
    _known[real, stamp] = found
    return found


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where digests outlive the process; it is safe to delete."""
    base = environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "pytest-falsify" / "digests"


def _named_by_the_hub(real: Path) -> str | None:
    """The digest that a blob's name is: Hugging Face's cache names LFS files by their SHA-256."""
    folder = real.parent
    is_blob = folder.name == "blobs" and folder.parent.name.startswith("models--")
    return f"sha256:{real.name}" if is_blob and _SHA256.fullmatch(real.name) else None


def _stamp(stat: os.stat_result) -> Stamp:
    """What changes with a file's content; the time of the inode's change cannot be set back."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev


def _is_settled(stamp: Stamp) -> bool:
    _, modified, changed, *_ = stamp
    return max(modified, changed) + _SETTLED_NS < time.time_ns()


def _read(real: Path) -> str:
    sha = hashlib.sha256()
    with real.open("rb") as stream:
        while block := stream.read(_BLOCK):
            sha.update(block)
    return f"sha256:{sha.hexdigest()}"


def _entry(real: Path) -> Path:
    name = digest_bytes(os.fsencode(real)).removeprefix("sha256:")
    return cache_folder() / f"{name}.json"


def _remembered(real: Path, stamp: Stamp) -> str | None:
    """The digest on disk, when it was made of this very file; anything doubtful is read anew."""
    if stamp[0] < LARGE:
        return None
    try:
        told = parse_json(_entry(real).read_bytes())
        found = told["sha256"] if told["stamp"] == list(stamp) else ""
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_digest = isinstance(found, str) and _SHA256.fullmatch(found)
    return f"sha256:{found}" if is_digest else None


def _remember(real: Path, stamp: Stamp, found: str) -> None:
    """Put a digest on disk as one step, so that a killed process leaves the old one or the new."""
    if stamp[0] < LARGE:
        return
    entry = _entry(real)
    temporary = entry.with_suffix(f".{uuid4().hex}.tmp")
    told = {"sha256": found.removeprefix("sha256:"), "stamp": stamp}
    with suppress(OSError):  # without the cache it is only slower
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(told), encoding="utf-8")
        temporary.replace(entry)
