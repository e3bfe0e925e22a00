"""The source files that contracts cite, looked up once each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_falsify.contracts.lint.definitions import LANGUAGES, definitions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_falsify.contracts.lint.definitions import Definition

_LARGEST = 4 * 1024 * 1024
_FILE = re.compile(
    r"(?P<file>[\w@+./-]*[\w@+-]\.(?:py|rs|c|h|cc|cpp|cxx|hpp|cu|cuh|md|json|ya?ml|toml|sh|txt|lean))"
    r"(?![\w.])(?P<names>(?:::[\w<>]+(?:\(\))?)*)(?:\s*\((?P<listed>[\w\s+,:]*)\))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A file, and names that are said to be defined in it."""

    file: str
    names: tuple[str, ...] = ()


def cited(text: str) -> Citation | None:
    """Read ``file.rs``, ``file.rs::module::name`` or ``file.rs (one + two)``; None for prose."""
    found = _FILE.match(text.strip())
    if found is None:
        return None
    path = found["names"].split("::")[1:]
    last = [path[-1].removesuffix("()")] if path else []
    listed = re.split(r"[+,]", found["listed"]) if found["listed"] else []
    names = [name.strip().rpartition("::")[2] for name in listed]
    one_word = [name for name in names if re.fullmatch(r"\w+", name) and "_" in name]
    return Citation(file=found["file"], names=(*last, *one_word))


class Sources:
    """The files below a folder.

    Args:
        root: the folder that cited paths start from, usually the repository's.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._read: dict[Path, Mapping[str, Definition] | None] = {}

    def find(self, name: str, near: Path) -> Path | None:
        """Return a cited file: below the root, or beside the contract that cites it."""
        for folder in (self.root, near.parent):
            path = folder / name
            if path.exists():
                return path
        return None

    def definitions(self, path: Path) -> Mapping[str, Definition] | None:
        """Return what a file defines, or None when nothing here can tell."""
        if path not in self._read:
            self._read[path] = _definitions(path)
        return self._read[path]


def _definitions(path: Path) -> Mapping[str, Definition] | None:
    if path.suffix not in LANGUAGES:
        return None
    try:
        if path.stat().st_size > _LARGEST:
            return None
        return definitions(path.suffix, path.read_bytes())
    except OSError:
        return None
