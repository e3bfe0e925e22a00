"""The door of this room: a file in, a contract out."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from pytest_falsify.contracts.entries import TESTS, is_contract
from pytest_falsify.contracts.loader import parse, read
from pytest_falsify.contracts.normalise import normalise
from pytest_falsify.contracts.validate import validate
from pytest_falsify.errors import ContractError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_falsify.contracts.cache import ContractCache
    from pytest_falsify.contracts.loader import Document
    from pytest_falsify.contracts.model import Contract
    from pytest_falsify.contracts.vocabulary import Vocabulary

_SIGN = b"alsif"  # cheaper than parsing, and a misspelt key still has it
_BYTE_ORDER_MARKS = b"\xff\xfe\xef\xbb\xbf"
_DECLARATION = re.compile(
    rb"""^(?:\s*\{?\s*["']?falsification_tests?["']?|\{?["']?falsification["']?)\s*:""",
    re.MULTILINE,
)


def load_contract(
    path: Path, *, vocabulary: Vocabulary, cache: ContractCache | None = None
) -> Contract | None:
    """Read one file strictly.

    Args:
        path: a YAML file.
        vocabulary: the checks, engines and stages that a contract may name.
        cache: where contracts that were valid before are kept, if anywhere.

    Returns:
        The contract, or None when the file is YAML that declares no falsifiers, or is broken and
        does not look like a contract either.

    Raises:
        ContractError: when the file is a contract and something in it is wrong.
    """
    data = read(path)
    document = cache.find(data, vocabulary, path) if cache else None
    if document is None:
        document = parse_contract(data, path)
        if document is None:
            return None
        validate(document, vocabulary)
        if cache:
            cache.store(data, vocabulary, document)
    return normalise(document, vocabulary)


def parse_contract(data: bytes, path: Path) -> Document | None:
    """Parse bytes, as far as they are a contract; nothing is validated.

    Raises:
        ContractError: when they look like a contract but are not well-formed YAML.
    """
    if _SIGN not in data and b"\0" not in data:
        return None
    try:
        document = parse(data, path)
    except ContractError:
        if looks_like_contract(data):
            raise
        return None
    if is_contract(document.data):
        return document
    _refuse_misspelt(document)
    if not isinstance(document.data, dict) and looks_like_contract(data):
        msg = "a contract is a mapping, and this file is none"
        raise ContractError(
            msg, path=path, line=1, expected="`metadata:`, `falsification_tests:` at the top level"
        )
    return None


def _refuse_misspelt(document: Document) -> None:
    """Refuse a file whose falsifiers would be lost in silence to a slip of the pen."""
    keys = document.data if isinstance(document.data, dict) else ()
    for key in difflib.get_close_matches(TESTS, keys, n=1, cutoff=0.9):
        msg = f"unknown key `{key}`"
        raise ContractError(
            msg,
            path=document.path,
            line=document.line((key,)),
            expected=f"`{TESTS}`, or nothing that looks like it",
            remedy=f"rename it to `{TESTS}`",
        )


def looks_like_contract(data: bytes) -> bool:
    """Tell whether bytes that need not be YAML seem to declare falsifiers."""
    text = data.replace(b"\0", b"").lstrip(_BYTE_ORDER_MARKS)
    return _DECLARATION.search(text) is not None
