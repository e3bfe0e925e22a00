"""Waivers: what a person lets pass for a while, with a name, a reason and an end."""

from __future__ import annotations

import datetime as dt
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.fields import exact_keys, get_list, get_text
from pytest_falsify.ledger.status import Status

if TYPE_CHECKING:
    from pathlib import Path

_REQUIRED = frozenset({"contract", "falsifier", "who", "why", "until"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """One line that lets one falsifier pass below what is demanded of it.

    Attributes:
        until: the last day on which it holds.
        accepts: the lowest status that it lets pass; a refutation has to be named as such.
        line: where it begins in its file.
    """

    contract: str
    falsifier: str
    who: str
    why: str
    until: dt.date
    accepts: Status = Status.UNTRIED
    path: str | None = None
    line: int | None = None

    def is_expired(self, today: dt.date) -> bool:
        """Return whether its last day is over."""
        return today > self.until

    def covers(self, contract: str, falsifier: str, status: Status) -> bool:
        """Return whether it lets a falsifier with a status pass."""
        is_meant = (self.contract, self.falsifier) == (contract, falsifier)
        return is_meant and status.rank >= self.accepts.rank


def parse(text: str, path: str | None = None) -> tuple[Waiver, ...]:
    """Read a TOML file of waivers.

    ```toml
    [[waiver]]
    contract = "C-TRACE-ATTN"
    falsifier = "FALSIFY-ATTN-SUB-004"
    who = "ada"
    why = "the kernel is being rewritten"
    until = 2026-12-31
    accepts = "PARTIAL"   # optional; FALSIFIED has to be written out
    ```

    Raises:
        LedgerError: when it is not TOML, a key is missing or unknown, or a falsifier stands twice.
    """
    try:
        data = tomllib.loads(text)
        exact_keys(data, "the file", optional={"waiver"})
        listed = get_list({"waiver": []} | data, "waiver", "the file")
    except (tomllib.TOMLDecodeError, LedgerError) as error:
        msg = f"the waivers cannot be read: {error}"
        raise LedgerError(msg, path=path, expected="[[waiver]] tables") from None
    lines = _lines(text)
    waivers = [
        _waiver(each, path, lines[number] if number < len(lines) else None)
        for number, each in enumerate(listed)
    ]
    _refuse_repetition(waivers)
    return tuple(waivers)


def read(path: Path) -> tuple[Waiver, ...]:
    """Read a file of waivers; without a file there are none.

    Raises:
        LedgerError: when it is there and cannot be read.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"the waivers cannot be read: {error}"
        raise LedgerError(msg, path=path) from error


def _waiver(value: object, path: str | None, line: int | None) -> Waiver:
    try:
        return _from_table(value, path, line)
    except LedgerError as error:
        raise LedgerError(
            error.what, path=path, line=line, expected=error.expected, remedy=error.remedy
        ) from None


def _from_table(value: object, path: str | None, line: int | None) -> Waiver:
    what = "a waiver"
    data: dict[str, Any] = value if isinstance(value, dict) else {}
    exact_keys(data, what, required=_REQUIRED, optional={"accepts"})
    texts = {name: get_text(data, name, what) for name in ("contract", "falsifier", "who", "why")}
    for name, text in texts.items():
        if not text.strip():
            msg = f"{name!r} of {what} is empty"
            raise LedgerError(msg, expected="who answers for it and why")
    if type(data["until"]) is not dt.date:
        msg = f"'until' of {what} is {data['until']!r}"
        raise LedgerError(msg, expected="a date without quotes, until = 2026-12-31")
    accepts = Status.parse(get_text({"accepts": "UNTRIED"} | data, "accepts", what))
    return Waiver(**texts, until=data["until"], accepts=accepts, path=path, line=line)


def _refuse_repetition(waivers: list[Waiver]) -> None:
    seen: set[tuple[str, str]] = set()
    for each in waivers:
        key = (each.contract, each.falsifier)
        if key in seen:
            msg = f"{each.falsifier} of {each.contract} is waived twice"
            raise LedgerError(msg, path=each.path, line=each.line, expected="one waiver for each")
        seen.add(key)


def _lines(text: str) -> list[int]:
    lines = enumerate(text.splitlines(), start=1)
    return [number for number, line in lines if line.strip().startswith("[[waiver]]")]
