"""The files that a program is made of: when one changes, what the program showed is stale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.canonical import digest, digest_bytes
from pytest_falsify.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def repository(path: Path) -> Path:
    """Return the folder of the repository that a contract stands in, or the contract's own."""
    parents = path.resolve().parents
    return next((each for each in parents if (each / ".git").exists()), parents[0])


def must_be_there(root: Path, globs: Sequence[str], capture: str) -> None:
    """Refuse globs that find nothing: evidence would depend on nothing.

    Args:
        root: the repository.
        globs: relative to it.
        capture: the name of the capture that declares them.

    Raises:
        ContractError: naming the glob.
    """
    for each in globs:
        if not any(path.is_file() for path in root.glob(each)):
            msg = f"capture `{capture}`: there is no file {each} in the repository"
            raise ContractError(msg, expected="globs of the program's own sources")


def sources_digest(root: Path, globs: Sequence[str]) -> str | None:
    """Return the digest of the names and contents of files; None where none are declared."""
    if not globs:
        return None
    files = sorted({each for glob in globs for each in root.glob(glob) if each.is_file()})
    return digest({str(each.relative_to(root)): digest_bytes(each.read_bytes()) for each in files})
