"""How bytes get from one process to another: through shared memory, or a socket on loopback.

A carrier has two ends. What one ``put`` returns, its ticket, goes by the workers' own connection,
and the other end ``take``s the bytes it stands for.
"""

from __future__ import annotations

import mmap
import os
import socket
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHARED_MEMORY, SOCKET = "shared-memory", "socket"
LOOPBACK = "127.0.0.1"
SECONDS = 60.0
_SMALLEST = 1 << 20
_ALIGNMENT = 64
_serials = count()
_MEMORY = Path("/dev/shm")  # noqa: S108 - Linux keeps what lies there in memory
Ticket = tuple[Any, ...]


class Sender(Protocol):
    """The end that puts."""

    def put(self, pieces: Sequence[memoryview], announce: Callable[[Ticket], None]) -> None:
        """Send bytes and announce their ticket."""

    def restart(self) -> None:
        """Forget what was sent: the other end is done with it."""

    def close(self) -> None:
        """Give back what it holds."""


class Receiver(Protocol):
    """The end that takes."""

    def take(self, ticket: Ticket) -> memoryview:
        """Return the bytes of a ticket; they may be written to, and stay until ``restart``."""

    def restart(self) -> None:
        """Let go of what was taken."""


class MemorySender:
    """Writes to a file in memory that both processes map; it stays warm from run to run."""

    def __init__(self) -> None:
        self._files: list[_Shared] = []

    def restart(self) -> None:
        """Begin again at the start of the largest file; the others go."""
        for each in self._files[:-1]:
            each.close()
        self._files = self._files[-1:]
        for each in self._files:
            each.used = 0

    def put(self, pieces: Sequence[memoryview], announce: Callable[[Ticket], None]) -> None:
        """See ``Sender``."""
        size = sum(each.nbytes for each in pieces)
        if not self._files or self._files[-1].room < size:
            largest = self._files[-1].size if self._files else _SMALLEST
            self._files.append(_Shared(max(2 * largest, size)))
        file = self._files[-1]
        begin = file.write(pieces)
        announce((str(file.path), file.serial, begin, size))

    def close(self) -> None:
        """See ``Sender``."""
        for each in self._files:
            each.close()
        self._files.clear()


class _Shared:
    """A file that lies in memory where the system has such a place.

    Where it has files without a name, a process that is killed leaves none behind. The path of such
    a file is used again for others, so each has a serial number as well.
    """

    def __init__(self, size: int) -> None:
        self._handle, self.path, self._is_named = _opened()
        os.truncate(self._handle, size)
        self._mapped = mmap.mmap(self._handle, size)
        self.serial, self.size, self.used = next(_serials), size, 0

    @property
    def room(self) -> int:
        return self.size - self.used

    def write(self, pieces: Sequence[memoryview]) -> int:
        """Write pieces one after the other and return where they begin."""
        begin = at = self.used
        memory = np.frombuffer(self._mapped, np.uint8)
        for each in pieces:
            memory[at : at + each.nbytes] = each
            at += each.nbytes
        self.used = min(self.size, at + -at % _ALIGNMENT)
        return begin

    def close(self) -> None:
        os.close(self._handle)
        if self._is_named:
            with suppress(FileNotFoundError):
                self.path.unlink()


def _opened() -> tuple[int, Path, bool]:
    """Open a new file; return its handle, its path, and whether that is a name in a folder."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("pytest-falsify")
        path = Path(f"/proc/{os.getpid()}/fd/{handle}")
        if path.exists():
            return handle, path, False
        os.close(handle)
    handle, name = tempfile.mkstemp(
        prefix="pytest-falsify-", dir=_MEMORY if _MEMORY.is_dir() else None
    )
    return handle, Path(name), True


class MemoryReceiver:
    """Maps the files that the other end writes, and returns views of them."""

    def __init__(self) -> None:
        self._mapped: dict[str, tuple[int, mmap.mmap]] = {}

    def take(self, ticket: Ticket) -> memoryview:
        """See ``Receiver``."""
        path, serial, begin, size = ticket
        if path not in self._mapped or self._mapped[path][0] != serial:
            with Path(path).open("r+b") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE)
            self._mapped[path] = (serial, mapped)
        return memoryview(self._mapped[path][1])[begin : begin + size]

    def restart(self) -> None:
        """See ``Receiver``: a file that is gone from its place will not be written to again."""
        self._mapped = {path: each for path, each in self._mapped.items() if Path(path).exists()}


class SocketSender:
    """Writes to a connection on loopback.

    Args:
        port: where the other end listens.
    """

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection((LOOPBACK, port), timeout=SECONDS)

    def restart(self) -> None:
        """Nothing is kept between runs."""

    def put(self, pieces: Sequence[memoryview], announce: Callable[[Ticket], None]) -> None:
        """See ``Sender``; the ticket goes first, or both ends would wait for each other."""
        announce((sum(each.nbytes for each in pieces),))
        for each in pieces:
            self._connection.sendall(each)

    def close(self) -> None:
        """See ``Sender``."""
        self._connection.close()


class SocketReceiver:
    """Listens on loopback for one connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server((LOOPBACK, 0), backlog=1)
        self._listener.settimeout(SECONDS)
        self._connection: socket.socket | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def take(self, ticket: Ticket) -> memoryview:
        """See ``Receiver``.

        Raises:
            CaptureError: when the connection ends before all bytes have come.
        """
        if self._connection is None:
            self._connection, _ = self._listener.accept()
            self._connection.settimeout(SECONDS)
        view = memoryview(bytearray(ticket[0]))
        have = 0
        while have < len(view):
            count = self._connection.recv_into(view[have:])
            if not count:
                msg = f"the connection ended after {have} of {len(view)} bytes"
                raise CaptureError(msg)
            have += count
        return view

    def restart(self) -> None:
        """See ``Receiver``."""

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
        if self._connection is not None:
            self._connection.close()
