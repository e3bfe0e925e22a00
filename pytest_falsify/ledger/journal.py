"""Run records: one JSON line for each thing a session learnt, on disk as soon as it is known.

The first line is the header, the last one the trailer. A record without a trailer is that of a
session that did not end; what it saw is kept, but it promotes nothing.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from pytest_falsify.canonical import canonical_bytes, parse_json
from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.fields import as_object, get_text
from pytest_falsify.ledger.observation import Observation
from pytest_falsify.ledger.store import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO

SCHEMA = "urn:pytest-falsify:run:1"

_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run record says.

    Attributes:
        header: what the session was (its own keys, ``id`` and ``schema``).
        records: everything between header and trailer, in the order it was learnt.
        trailer: the counts; None when the session never ended.
        is_torn: whether the last line was cut off and passed over.
    """

    path: Path
    header: Mapping[str, Any] = field(default_factory=dict)
    records: tuple[Mapping[str, Any], ...] = ()
    trailer: Mapping[str, Any] | None = None
    is_torn: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether the session ended and said that nothing was lost."""
        return self.trailer is not None and self.trailer.get("complete") is True

    def observations(self) -> tuple[Observation, ...]:
        """Return the observations among the records.

        Raises:
            LedgerError: when one is nonsense or was edited.
        """
        kept = []
        for number, record in enumerate(self.records, start=2):
            if record["kind"] == "observation":
                try:
                    kept.append(Observation.from_json(record.get("observation")))
                except LedgerError as error:
                    raise error.located(self.path, number) from None
        return tuple(kept)


class Journal:
    """The run record of a session that is going on; it is locked for as long as it is open."""

    def __init__(self, path: Path, file: BinaryIO, lock: FileLock) -> None:
        self.path = path
        self._file = file
        self._lock = lock

    @classmethod
    def open(cls, folder: Path, header: Mapping[str, Any]) -> Self:
        """Begin a run record in a folder.

        Args:
            folder: where run records are kept, ``.falsify/runs``.
            header: what the session is (lane, command, commit, versions), as JSON values; its
                ``id`` names the file, else one is made up.

        Raises:
            LedgerError: when the file cannot be made.
        """
        run = str(header.get("id") or uuid.uuid4().hex)
        path = folder / f"{run}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(path)
            lock.acquire()
            path.touch(exist_ok=False)
            journal = cls(path, path.open("ab", buffering=0), lock)
            journal._write({**header, "id": run, "kind": "header", "schema": SCHEMA})
            sync_folder(folder)
        except (OSError, Timeout) as error:
            msg = f"the run record could not be made: {error}"
            raise LedgerError(msg, path=path) from error
        return journal

    def append(self, record: Mapping[str, Any]) -> None:
        """Put one record on disk; it is there when this returns.

        Args:
            record: a JSON object; its ``kind`` is neither ``header`` nor ``trailer``.

        Raises:
            LedgerError: when the disk refuses, or the record is not JSON.
        """
        if record.get("kind") in {None, "header", "trailer"}:
            msg = f"a record of the kind {record.get('kind')!r} cannot be appended"
            raise LedgerError(msg, path=self.path)
        self._write(record)

    def observe(self, observation: Observation) -> None:
        """Put one observation on disk."""
        self.append({"kind": "observation", "observation": observation.to_json()})

    def close(self, counts: Mapping[str, Any], *, complete: bool = True) -> None:
        """End the run record.

        Args:
            counts: what the session counted, as JSON values.
            complete: False when a report was lost; such a run promotes nothing.
        """
        try:
            self._write({"complete": complete, "counts": dict(counts), "kind": "trailer"})
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the file without a trailer, as a killed session would."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._file.closed:
            self.abandon()

    def _write(self, record: Mapping[str, Any]) -> None:
        try:
            line = memoryview(canonical_bytes(dict(record)) + b"\n")
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except (OSError, TypeError, ValueError) as error:
            msg = f"the run record could not be written: {error}"
            raise LedgerError(msg, path=self.path) from error


def read_run(path: Path) -> Run:
    """Read a run record, passing over a last line that was cut off.

    Raises:
        LedgerError: when any other line is not a record, or the first one is not a header.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"the run record could not be read: {error.strerror or error}"
        raise LedgerError(msg, path=path) from error
    *lines, rest = data.split(b"\n")
    records = [_record(line, path, number) for number, line in enumerate(lines, start=1)]
    if not records:
        return Run(path=path, is_torn=bool(rest))
    header, *others = records
    _check_header(header, path)
    return _run(path, header, others, is_torn=bool(rest))


def recover(path: Path, use: Callable[[Run], None] | None = None) -> Run | None:
    """Give the record of a killed session an end, and return what it saw.

    Nothing that was reported is lost; the trailer says that the run was not complete. Returns None
    when the session is still going on.

    Args:
        path: the run record.
        use: makes use of the record before it is given its end; when that fails, or is killed too,
            the record stays as it was.

    Raises:
        LedgerError: when the record is not readable.
    """
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    try:
        run = read_run(path)
        if run.header and run.trailer is None:
            if use is not None:
                use(run)
            _end(path)
        return read_run(path)
    finally:
        lock.release()


def recover_all(folder: Path, use: Callable[[Run], None] | None = None) -> tuple[Run, ...]:
    """Recover every record of a killed session in a folder; return those that were mended.

    Args:
        folder: where run records are kept.
        use: makes use of each of them before it is given its end.

    Raises:
        LedgerError: when a record is not readable.
    """
    open_ended = [path for path in sorted(folder.glob("*.jsonl")) if not _is_ended(path)]
    runs = [recover(path, use) for path in open_ended]
    return tuple(run for run in runs if run is not None and run.trailer is not None)


def _is_ended(path: Path) -> bool:
    """Whether the last line is a trailer; old records are many, so only their end is read."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().split(b"\n")
    return lines[-1] == b"" and b'"kind":"trailer"' in lines[-2:][0]


def _end(path: Path) -> None:
    trailer = {"complete": False, "counts": {}, "kind": "trailer", "recovered": True}
    with path.open("r+b") as file:
        data = file.read()
        file.seek(data.rfind(b"\n") + 1)
        file.truncate()
        file.write(canonical_bytes(trailer) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _lock(path: Path) -> FileLock:
    return FileLock(path.with_suffix(".lock"), timeout=1)


def _record(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = as_object(parse_json(line), "a record")
        get_text(record, "kind", "a record")
    except (ValueError, LedgerError) as error:
        msg = f"a line of the run record is not a record: {error}"
        raise LedgerError(
            msg, path=path, line=number, remedy="the file was edited or damaged; run again"
        ) from None
    return record


def _check_header(header: Mapping[str, Any], path: Path) -> None:
    if (header["kind"], header.get("schema")) != ("header", SCHEMA):
        msg = "the run record does not begin with a header"
        raise LedgerError(msg, path=path, line=1, expected=f"a header of {SCHEMA}")


def _run(
    path: Path, header: Mapping[str, Any], others: list[dict[str, Any]], *, is_torn: bool
) -> Run:
    ends = [number for number, each in enumerate(others) if each["kind"] == "trailer"]
    if ends and (ends != [len(others) - 1] or is_torn):
        msg = "the run record goes on after its trailer"
        raise LedgerError(msg, path=path, line=ends[0] + 2, remedy="run again")
    trailer = others.pop() if ends else None
    return Run(path=path, header=header, records=tuple(others), trailer=trailer, is_torn=is_torn)
