"""Ledgers on disk: one file for each contract, replaced as a whole, under a lock."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.document import parse, to_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_falsify.ledger.block import Ledger

_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What ``update`` found and left.

    Attributes:
        before: what was on file; None when there was no file.
        after: what is on file now.
        is_changed: whether any byte of the file changed.
    """

    before: Ledger | None
    after: Ledger
    is_changed: bool


def ledger_path(folder: Path, contract: str) -> Path:
    """Return where the ledger of a contract is kept.

    Raises:
        LedgerError: when the contract's id cannot be the name of a file.
    """
    if contract in {"", ".", ".."} or any(each in contract for each in '/\\:\0\n"<>|?*'):
        msg = f"the contract id {contract!r} cannot be the name of a ledger"
        raise LedgerError(msg, expected="an id that can be the name of a file")
    return folder / f"{contract}.json"


def read(path: Path, *, any_words: bool = False) -> Ledger | None:
    """Return the ledger in a file, or None when there is no file.

    Args:
        path: the ledger's file.
        any_words: accept another wording of ``because``; see ``parse``.

    Raises:
        LedgerError: when it cannot be read, is not a ledger, or claims more than its evidence.
    """
    text = read_text(path)
    return None if text is None else parse(text, str(path), any_words=any_words)


def is_canonical(path: Path) -> bool:
    """Return whether a ledger is spelled, byte for byte, as it would be written.

    Raises:
        LedgerError: when it is not a readable ledger at all.
    """
    text = read_text(path)
    return text is None or to_text(parse(text, str(path))) == text


def write(path: Path, ledger: Ledger, *, locks: Path | None = None) -> bool:
    """Put a ledger on file and return whether any byte changed.

    Raises:
        LedgerError: when the file is there but is no readable ledger (it is then left as it is), or
            when the disk refuses.
    """
    return update(path, lambda _: ledger, locks=locks).is_changed


def update(
    path: Path, change: Callable[[Ledger | None], Ledger], *, locks: Path | None = None
) -> Update:
    """Read, change and replace a ledger so that nobody else's change is lost.

    Args:
        path: the ledger's file.
        change: gives the new ledger from the one on file.
        locks: the folder of the locks; by default ``.falsify/locks`` beside the ledger's folder.

    Raises:
        LedgerError: when the file is no readable ledger, somebody holds it for a minute, or the
            disk refuses. What was on file is then still there.
    """
    try:
        with _lock(path, locks or path.parent.parent / ".falsify" / "locks"):
            old = read_text(path)
            before = None if old is None else parse(old, str(path), any_words=True)
            after = change(before)
            text = to_text(after)
            if text != old:
                _replace(path, text)
    except Timeout:
        msg = "another session has held the ledger for a minute"
        raise LedgerError(msg, path=path, remedy="wait for it to end, then run again") from None
    except OSError as error:
        msg = f"the ledger could not be written: {error.strerror or error}"
        raise LedgerError(
            msg, path=path, remedy="free space or mend the permissions; the old ledger is intact"
        ) from error
    return Update(before=before, after=after, is_changed=text != old)


def read_text(path: Path) -> str | None:
    """Return the text of a file, or None when there is no file.

    Raises:
        LedgerError: when it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        msg = "the ledger is not UTF-8"
        raise LedgerError(msg, path=path, line=line, remedy="restore it from git") from None
    except OSError as error:
        msg = f"the ledger could not be read: {error.strerror or error}"
        raise LedgerError(msg, path=path) from error


def _lock(path: Path, folder: Path) -> FileLock:
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    return FileLock(folder / f"{path.stem}-{name}.lock", timeout=_PATIENCE_SECONDS)


def _replace(path: Path, text: str) -> None:
    """Put the text in place of the file as one step, so that a killed session leaves either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a loss of power, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
