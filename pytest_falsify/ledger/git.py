"""Ledgers as they are at a commit; the only place of this room that runs git."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.document import many_ledgers, parse
from pytest_falsify.ledger.status import Status, judge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_falsify.ledger.block import Ledger

ABSENT = (
    "fetch the commit (git fetch origin, fetch-depth: 0 in CI), or make the first one "
    "where the repository has none"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A commit at which the status of a falsifier, or its reason, became another one."""

    commit: str
    date: str
    author: str
    subject: str
    status: Status | None
    because: str


def ledgers_at(ref: str, folder: Path) -> dict[str, Ledger]:
    """Return the ledgers that a commit holds in a folder, by id of the contract.

    Args:
        ref: a commit, branch or tag.
        folder: the folder of the ledgers in the working tree.

    Raises:
        LedgerError: when there is no such commit, or a ledger in it cannot be read.
    """
    texts = dict(_texts(ref, folder))
    with many_ledgers():
        ledgers = [parse(text, f"{ref}:{path}", any_words=True) for path, text in texts.items()]
    return {each.contract: each for each in ledgers}


def history(path: Path, falsifier: str) -> tuple[Moment, ...]:
    """Return the moments of a falsifier, the newest first.

    Args:
        path: the ledger in the working tree.
        falsifier: the id of the falsifier.

    Raises:
        LedgerError: when the ledger is not in a git repository.
    """
    form = "%H%x1f%as%x1f%an%x1f%s"
    lines = _git(path.parent, "log", "--reverse", f"--format={form}", "--", path.name)
    moments: list[Moment] = []
    for line in lines.decode(errors="replace").splitlines():
        commit, date, author, subject = line.split("\x1f", 3)
        status, because = _standing(commit, path, falsifier)
        known = (moments[-1].status, moments[-1].because) if moments else (None, "")
        if (status, because) != known:
            moments.append(
                Moment(
                    commit=commit,
                    date=date,
                    author=author,
                    subject=subject,
                    status=status,
                    because=because,
                )
            )
    return tuple(reversed(moments))


def _standing(commit: str, path: Path, falsifier: str) -> tuple[Status | None, str]:
    listed = _git(path.parent, "ls-tree", "--name-only", commit, "--", path.name)
    if not listed:
        return None, "the ledger was removed"
    text = _git(path.parent, "show", f"{commit}:./{path.name}").decode(errors="replace")
    try:
        ledger = parse(text, f"{commit}:{path.name}", any_words=True)
    except LedgerError as error:
        return None, f"the ledger could not be read: {error.what}"
    block = ledger.blocks.get(falsifier)
    return judge(block) if block else (None, "it was not in the ledger")


def _texts(ref: str, folder: Path) -> Iterator[tuple[str, str]]:
    here = next(each for each in (folder, *folder.parents) if each.is_dir())
    commit = _commit(here, ref)
    within = folder.relative_to(here).as_posix()
    listed = _git(here, "ls-tree", "-z", commit, "--", f"./{within}/")
    found = [_blob(each) for each in listed.decode().split("\0") if each]
    blobs = [(name, blob) for name, blob in found if PurePosixPath(name).suffix == ".json"]
    yield from zip([name for name, _ in blobs], _contents(here, blobs), strict=True)


def _commit(folder: Path, ref: str) -> str:
    found = _git(
        folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"
    )
    return found.decode().strip()


def _blob(line: str) -> tuple[str, str]:
    meta, name = line.split("\t", 1)
    return name, meta.split(" ")[2]


def _contents(folder: Path, blobs: list[tuple[str, str]]) -> Iterator[str]:
    """The blobs through one process: a thousand contracts must not cost a thousand of them."""
    wanted = "".join(f"{blob}\n" for _, blob in blobs).encode()
    data = _git(folder, "cat-file", "--batch", given=wanted)
    at = 0
    for name, _ in blobs:
        end = data.index(b"\n", at)
        size = int(data[at:end].rsplit(b" ", 1)[1])
        try:
            yield data[end + 1 : end + 1 + size].decode()
        except UnicodeDecodeError:
            msg = "the ledger is not UTF-8"
            raise LedgerError(msg, path=name) from None
        at = end + 1 + size + 1


def _git(folder: Path, *arguments: str, given: bytes | None = None) -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - the arguments are ours, and no shell is involved
            command, input=given, capture_output=True, check=True
        )
    except OSError as error:
        msg = f"git could not be run: {error}"
        raise LedgerError(msg, remedy="install git") from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip() or "it found nothing"
        msg = f"git {arguments[0]} {arguments[-1]} failed: {words}"
        raise LedgerError(msg, path=folder, remedy=ABSENT) from None
    return done.stdout
