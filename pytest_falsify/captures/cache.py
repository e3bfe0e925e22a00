"""Captures on disk that several processes share: each is made once, by whoever comes first.

An entry is a bundle whose name is the digest of everything that decides its numbers. It is made
under a lock of its own, appears by being renamed, and is verified whenever it is read; so a process
that is killed leaves an entry that is whole or absent. Everything in the folder can be deleted.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from time import time
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pytest_falsify.canonical import digest
from pytest_falsify.captures.bundle import read_bundle, write_bundle
from pytest_falsify.captures.manifest import MANIFEST
from pytest_falsify.captures.record import record
from pytest_falsify.errors import FalsifyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_falsify.captures.capture import Capture, TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.engines.base import Session

MAX_BYTES = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureCache:
    """A folder of captures, the least recently used given up first.

    Attributes:
        folder: where they lie.
        scope: what else decides the numbers than the engine says: a test run that they are kept
            for, or the machine, the code and the environment.
        is_lasting: the scope outlives a test run, so only engines are cached whose identity is
            complete (``is_identity_complete``).
        max_bytes: how large the folder may become; a larger capture is not kept.
        lifetime: after how many seconds without use an entry is given up; None: never.
    """

    folder: Path
    scope: str
    is_lasting: bool = False
    max_bytes: int = MAX_BYTES
    lifetime: float | None = None

    def capture(self, session: Session, inputs: TokenInputs, plan: Plan) -> Capture:
        """Return a capture that covers a resolved plan, from the folder or from a run.

        Whoever asks for the same while it is made waits for it. What is there and lacks something
        is made again with both.

        Raises:
            FalsifyError: when the run fails.
        """
        if self.is_lasting and not getattr(session, "is_identity_complete", False):
            return record(session, inputs, plan)
        entry = self.folder / self.key(session, inputs, plan).removeprefix("sha256:")
        with _locked(entry):
            known = _read(entry, session, inputs)
            if known is not None and known.plan.covers(plan):
                return known
            made = record(session, inputs, known.plan.union(plan) if known else plan)
            self._write(entry, made)
        self.shrink()
        return made

    def key(self, session: Session, inputs: TokenInputs, plan: Plan) -> str:
        """Return the digest of what decides the numbers of a run.

        Stages and layers are not part of it: looking changes nothing, and what an entry lacks is
        found out by its plan.
        """
        identity = session.identity()
        return digest(
            {
                "decode_steps": plan.decode_steps,
                "device_name": identity.device_name,
                "identity": identity.digest,
                "inputs": inputs.digest,
                "place": getattr(session, "place", ""),
                "positions": plan.chosen and list(plan.chosen),
                "scope": self.scope,
            }
        )

    def _write(self, entry: Path, capture: Capture) -> None:
        """Keep a capture, if it can be: a full disk costs another run, and fails nothing."""
        if capture.nbytes > self.max_bytes:
            return
        with suppress(OSError, FalsifyError):
            write_bundle(capture, entry, replace=True)

    def shrink(self) -> None:
        """Give up what is too old, and the least recently used beyond the limit.

        Entries in use are left.
        """
        used = _by_last_use(self.folder)
        sizes = {each: _size(each) for each in used}
        total = sum(sizes.values())
        for entry in sorted(used, key=lambda each: used[each]):
            is_old = self.lifetime is not None and time() - used[entry] > self.lifetime
            if is_old or total > self.max_bytes:
                with suppress(Timeout), _locked(entry, timeout=0):
                    shutil.rmtree(entry, ignore_errors=True)
                    total -= sizes[entry]


@contextmanager
def _locked(entry: Path, *, timeout: float = -1) -> Iterator[None]:
    """Hold an entry alone, and clear away what a killed process left of it."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    # Beside the entry and never removed: whoever waits for a lock must wait for this file.
    with FileLock(entry.with_name(f"{entry.name}.lock"), timeout=timeout):
        for left in entry.parent.glob(f".{entry.name}.*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _read(entry: Path, session: Session, inputs: TokenInputs) -> Capture | None:
    """Return a verified entry, or None; one that is spoilt or of something else is removed."""
    if not entry.is_dir():
        return None
    try:
        found = read_bundle(entry)
        os.utime(entry / MANIFEST)
    except (OSError, FalsifyError):
        found = None
    if found is not None and (found.identity, found.inputs.digest) == (
        session.identity(),
        inputs.digest,
    ):
        return replace(found, inputs=inputs)
    shutil.rmtree(entry, ignore_errors=True)
    return None


def _by_last_use(folder: Path) -> dict[Path, float]:
    """Return when each entry was last used, in seconds of the clock."""
    used: dict[Path, float] = {}
    for manifest in folder.glob(f"*/{MANIFEST}"):
        with suppress(OSError):  # another process may give it up meanwhile
            used[manifest.parent] = manifest.stat().st_mtime
    return {entry: at for entry, at in used.items() if not entry.name.startswith(".")}


def _size(entry: Path) -> int:
    total = 0
    with suppress(OSError):
        total = sum(each.stat().st_size for each in entry.iterdir())
    return total
