"""Numbers as they are recorded: few digits, and nothing that JSON cannot hold."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from pytest_falsify.errors import LedgerError

_SIGNIFICANT = ".3g"
_SEQUENCES = (list, tuple)


def settle(value: Any) -> Any:
    """Return a JSON value of its own, with floats that stay small and stable in a ledger.

    Floats keep three significant digits; a NaN or an infinity becomes the string ``nan``, ``inf``
    or ``-inf``, so that a refutation that rests on one can be recorded. Tuples become lists. What
    UTF-8 cannot spell, as in the names of some files, becomes a question mark.

    Raises:
        LedgerError: when something is not a JSON value.
    """
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, float):
        return float(format(value, _SIGNIFICANT)) if math.isfinite(value) else str(float(value))
    if isinstance(value, _SEQUENCES):
        return [settle(each) for each in value]
    try:
        members = value.items()
    except AttributeError:
        msg = f"a {type(value).__name__} cannot be recorded as evidence"
        raise LedgerError(msg, expected="numbers, strings, lists and mappings") from None
    return {
        settle(key) if isinstance(key, str) else _no_key(key): settle(each) for key, each in members
    }


def _no_key(key: object) -> NoReturn:
    msg = f"{key!r} cannot be the name of an observed number"
    raise LedgerError(msg, expected="a string")
