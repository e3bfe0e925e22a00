"""Outcomes on disk as soon as they are known, so that a run that was killed goes on where it was.

A file is named by the digest of all that decides them. It lives as long as the run that writes it:
one that ends removes it, since what was seen once is no evidence of a second time.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from filelock import FileLock, Timeout

from pytest_falsify.canonical import canonical_bytes, parse_json
from pytest_falsify.checks.prompt_outcome import PromptOutcome

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".jsonl"
LIFETIME = 30 * 24 * 3600.0
"""After how many seconds the file of a run that nobody took up again is removed."""


@dataclass(kw_only=True)
class KeptOutcomes:
    """The outcomes of one survey that is going on; nobody else writes them meanwhile.

    Attributes:
        path: their file, one JSON line each.
        known: those of a killed run, by the digest of what was fed.
    """

    path: Path
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    _file: BinaryIO
    _lock: FileLock

    @classmethod
    def open(cls, folder: Path, key: str) -> Self | None:
        """Take up the file of a key, or begin it; None where another run is writing it.

        A last line that was cut off is dropped, and so is all behind a line that is none of ours.

        Args:
            folder: where such files are kept.
            key: the digest of all that decides the outcomes, but for what is fed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _give_up_old(folder)
        path = folder / f"{key.removeprefix('sha256:')}{SUFFIX}"
        lock = FileLock(path.with_suffix(".lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return None
        path.touch()
        known, whole = _read(path.read_bytes())
        file = path.open("r+b")
        file.truncate(whole)
        file.seek(whole)
        return cls(path=path, known=known, _file=file, _lock=lock)

    def find(self, fed: str, id: str) -> PromptOutcome | None:  # noqa: A002 - the field's own word
        """Return the outcome of what is fed, under the name that it goes by today."""
        body = self.known.get(fed)
        return None if body is None else PromptOutcome.from_json({**body, "id": id})

    def append(self, fed: str, outcome: PromptOutcome) -> None:
        """Put one outcome on disk; it is there when this returns."""
        self._file.write(canonical_bytes({"fed": fed, "outcome": outcome.to_json()}) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, *, is_finished: bool) -> None:
        """Let go of the file, and remove it where the survey has come to its end."""
        self._file.close()
        if is_finished:
            self.path.unlink(missing_ok=True)
        self._lock.release()


def _read(data: bytes) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the outcomes by what was fed, and how many bytes of the file they take."""
    found: dict[str, dict[str, Any]] = {}
    whole = 0
    for line in data.split(b"\n")[:-1]:
        try:
            body = parse_json(line)
            PromptOutcome.from_json(body["outcome"])
            found[str(body["fed"])] = body["outcome"]
        except (ValueError, KeyError, TypeError):
            break
        whole += len(line) + 1
    return found, whole


def _give_up_old(folder: Path) -> None:
    oldest = time.time() - LIFETIME
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
