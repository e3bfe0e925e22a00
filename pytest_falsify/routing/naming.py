"""The names of runs and the times that they carry: what is allowed, and nothing else."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from pathlib import Path

_RFC3339 = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[Tt](?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)(?:\.\d+)?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<hours>\d\d):(?P<minutes>\d\d))"
)
_DRIVE = re.compile(r"^[A-Za-z]:")
# The days of UTC that ended with a leap second, up to IERS Bulletin C 70: none since 2016.
_JUNE = (1972, 1981, 1982, 1983, 1985, 1992, 1993, 1994, 1997, 2012, 2015)
_DECEMBER = (
    *(1972, 1973, 1974, 1975, 1976, 1977, 1978, 1979),
    *(1987, 1989, 1990, 1995, 1998, 2005, 2008, 2016),
)
LEAP_DAYS = frozenset({date(y, 6, 30) for y in _JUNE} | {date(y, 12, 31) for y in _DECEMBER})
_LEAP = 60


def is_date_time(text: object) -> bool:
    """Tell whether a text is a date and time of RFC 3339 that the calendar has.

    Second 60 exists only where a leap second was announced.
    """
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return False
    second = int(match["second"])
    try:
        day = date.fromisoformat(match["day"])
        moment = datetime(
            day.year, day.month, day.day, int(match["hour"]), int(match["minute"]),
            min(second, _LEAP - 1), tzinfo=UTC,
        )  # fmt: skip
        if match["sign"]:
            offset = datetime.strptime(match["hours"] + match["minutes"], "%H%M").replace(
                tzinfo=UTC
            )
            away = timedelta(hours=offset.hour, minutes=offset.minute)
            moment += away if match["sign"] == "-" else -away
    except (ValueError, OverflowError):
        return False
    return second < _LEAP or (second == _LEAP and _is_before_leap(moment))


def _is_before_leap(moment: datetime) -> bool:
    is_last_minute = (moment.hour, moment.minute) == (23, 59)
    return is_last_minute and moment.date() in LEAP_DAYS


def is_run_id(run_id: str) -> bool:
    """Tell whether a run's id names a folder below another: ``run-001``, or ``group/run-001``."""
    is_plain = bool(run_id) and "\\" not in run_id and not _DRIVE.match(run_id)
    return is_plain and all(part not in {"", ".", ".."} for part in run_id.split("/"))


def run_folder(root: Path, run_id: str) -> Path:
    """Return the folder of a run.

    Raises:
        CaptureError: when the id is no relative path that stays below the root.
    """
    if not is_run_id(run_id):
        msg = f"`{run_id}` cannot name a run"
        raise CaptureError(
            msg, expected="names with / between, none of them empty, `.` or `..`: group/run-001"
        )
    return root.joinpath(*run_id.split("/"))


def now() -> str:
    """Return the time as RFC 3339 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
