"""Canonical JSON and the digests made from it.

Two values are the same evidence exactly when their canonical bytes are the same, so there is one
spelling of each value: sorted keys, no blanks, UTF-8, no NaN or infinity.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

# Looking for cycles costs a sixth of the time; a value that has one ends in a RecursionError.
_COMPACT = json.JSONEncoder(
    sort_keys=True,
    separators=(",", ":"),
    ensure_ascii=False,
    allow_nan=False,
    check_circular=False,
)


def canonical(value: Any) -> str:
    """Return the one compact spelling of a JSON value.

    Raises:
        ValueError: when a number is not finite.
        TypeError: when something is not a JSON value.
    """
    return _COMPACT.encode(value)


def canonical_bytes(value: Any) -> bytes:
    """Return the one compact spelling of a JSON value, as bytes; see ``canonical``."""
    return canonical(value).encode()


def digest(value: Any) -> str:
    """Return ``sha256:<hex>`` of the canonical spelling of a JSON value."""
    return digest_bytes(_COMPACT.encode(value).encode())


def digest_bytes(data: bytes | memoryview) -> str:
    """Return ``sha256:<hex>`` of bytes as they are."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def parse_json(text: str | bytes, **hooks: Any) -> Any:
    """Return the value that a text spells, as ``json.loads`` does with the same hooks.

    Raises:
        ValueError: when it is not JSON, or is nested more deeply than Python can follow.
    """
    try:
        return json.loads(text, **hooks)
    except RecursionError as error:
        msg = "it is nested too deeply"
        raise ValueError(msg) from error


def canonical_text(value: Any) -> str:
    """Return the spelling of a JSON value that a person reviews: indented, one member a line."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
