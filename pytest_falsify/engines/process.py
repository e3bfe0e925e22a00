"""One process, in a shell or without: it ends or is stopped, and what is kept of it is bounded."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from threading import Thread
from typing import IO, TYPE_CHECKING

from pytest_falsify.errors import Blocked, ContractError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KEPT_BYTES = 1 << 20
"""How much of the beginning and of the end of a stream is kept."""
_CHUNK = 1 << 16
_GRACE = 5.0
_MOST_TOLD = 200


class Stream:
    """What a process printed: its size, its digest, its beginning and its end."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        self._head = bytearray()
        self._tail = bytearray()

    def take(self, data: bytes) -> None:
        """Take what came next."""
        self.size += len(data)
        self._hash.update(data)
        room = KEPT_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * KEPT_BYTES:
            del self._tail[:-KEPT_BYTES]

    @property
    def digest(self) -> str:
        """The digest of all of it."""
        return f"sha256:{self._hash.hexdigest()}"

    @property
    def text(self) -> str:
        """What was kept of it, as text."""
        left_out = self.size - len(self._head) - len(self._tail)
        gap = f"\n... {left_out} bytes left out ...\n".encode() if left_out else b""
        return (bytes(self._head) + gap + bytes(self._tail)).decode("utf-8", errors="replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A process that is over.

    Attributes:
        exit: its exit status, 128 and more for a signal; None when it was stopped for its time.
    """

    exit: int | None
    output: Stream
    errors: Stream

    @property
    def text(self) -> str:
        """Everything that it printed, the errors last."""
        return self.output.text + self.errors.text

    @property
    def last_line(self) -> str:
        """The end of what it had to say: the last line of its errors, else of its output."""
        lines = (self.errors.text.strip() or self.output.text.strip()).splitlines()
        return lines[-1][:_MOST_TOLD] if lines else ""


def run(command: str, *, folder: Path, seconds: float) -> Finished:
    """Run a command in a shell that stops at the first failure, also within a pipe.

    Args:
        command: one or more lines.
        folder: the working directory.
        seconds: how long it may take; then it and all that it started is killed.

    Raises:
        ContractError: when the folder is not there.
        Blocked: when there is no shell.
    """
    return run_program([*_shell(), command], folder=folder, seconds=seconds)


def run_program(words: Sequence[str], *, folder: Path, seconds: float) -> Finished:
    """Run a program without a shell.

    Args:
        words: the program and its arguments.
        folder: the working directory, from which the program's own path is relative.
        seconds: how long it may take; then it and all that it started is killed.

    Raises:
        ContractError: when the folder is not there.
        Blocked: when there is no such program, or it cannot be executed.
    """
    if not folder.is_dir():
        msg = f"there is no folder {folder} to run a command in"
        raise ContractError(msg, expected="`cwd`: a folder relative to the repository")
    process = _started(words, folder)
    streams = (Stream(), Stream())
    readers = [
        Thread(target=_read, args=(pipe, stream), daemon=True)
        for pipe, stream in zip((process.stdout, process.stderr), streams, strict=True)
    ]
    for each in readers:
        each.start()
    status = _wait(process, seconds)
    for each in readers:
        each.join(_GRACE)
    return Finished(exit=status, output=streams[0], errors=streams[1])


def _started(words: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - running what the contract says is what it is for
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,  # a reader has what there is, even when something keeps the pipe open
        )
    except OSError as error:
        msg = f"the program {words[0]} cannot be started: {error.strerror}"
        raise Blocked(msg, remedy="build or install it") from error


def _shell() -> list[str]:
    bash = shutil.which("bash")
    if bash:
        return [bash, "-e", "-o", "pipefail", "-c"]
    sh = shutil.which("sh")
    if sh is None:
        msg = "there is no shell to run a command in"
        raise Blocked(msg, remedy="install bash")
    return [sh, "-e", "-c"]


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        _kill_group(process.pid)
        process.wait()
        return None
    return status if status >= 0 else 128 - status


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _read(pipe: IO[bytes] | None, stream: Stream) -> None:
    if pipe is None:
        return
    with pipe:
        while chunk := pipe.read(_CHUNK):
            stream.take(chunk)
