"""Contracts that were already parsed and found valid, by the digest of their content.

An entry is JSON behind the digest of that JSON: a damaged entry is a miss and never a wrong
contract. It is safe to delete the folder at any time, and to share it between processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_falsify.canonical import canonical_bytes
from pytest_falsify.contracts.loader import Document
from pytest_falsify.contracts.schemas import shapes

if TYPE_CHECKING:
    from pytest_falsify.contracts.vocabulary import Vocabulary

_FORMAT = 1
_DIGEST_BYTES = 32
_SECONDS_A_DAY = 24 * 60 * 60


class ContractCache:
    """A folder of parsed contracts.

    Args:
        folder: where the entries lie; it is made when the first one is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, data: bytes, vocabulary: Vocabulary, path: Path) -> Document | None:
        """Return the document of these bytes if it was found valid under this vocabulary."""
        try:
            entry = self._entry(data, vocabulary).read_bytes()
        except OSError:
            return None
        digest, payload = entry[:_DIGEST_BYTES], entry[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        value, places = json.loads(payload)
        return Document(path, value, places)

    def store(self, data: bytes, vocabulary: Vocabulary, document: Document) -> None:
        """Keep a valid document; a folder that cannot be written is no reason to fail."""
        payload = json.dumps((document.data, document.places), separators=(",", ":")).encode()
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, suffix=".new")
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            # Another worker may store the same entry now: both are right, the last one stays.
            Path(name).replace(self._entry(data, vocabulary))

    def prune(self, *, days: float = 30) -> int:
        """Remove the entries that were stored more than some days ago; return how many."""
        oldest = time.time() - days * _SECONDS_A_DAY
        removed = 0
        for entry in self.folder.glob("*"):
            with contextlib.suppress(OSError):
                if entry.stat().st_mtime < oldest:
                    entry.unlink()
                    removed += 1
        return removed

    def _entry(self, data: bytes, vocabulary: Vocabulary) -> Path:
        key = hashlib.sha256(_fingerprint(vocabulary))
        key.update(data)
        return self.folder / f"{key.hexdigest()}.contract"


@lru_cache(maxsize=4)
def _fingerprint(vocabulary: Vocabulary) -> bytes:
    """Return what "valid" depends on beside the bytes: this package, the schemas, the stages."""
    known = shapes(vocabulary)
    return canonical_bytes(
        {
            "format": _FORMAT,
            "version": _version(),
            "contract": known.contract.schema,
            "checks": {kind: shape.schema for kind, shape in known.checks.items()},
            "engines": {name: shape.schema for name, shape in known.engines.items()},
            "stages": f"{vocabulary.stage.__module__}.{vocabulary.stage.__qualname__}",
        }
    )


def _version() -> str:
    try:
        return version("pytest-falsify")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"
