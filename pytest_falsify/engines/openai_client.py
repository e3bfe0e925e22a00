"""Asks an HTTP server: so many requests at once, and again after what may pass, all recorded."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import Blocked, CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2

PACKAGE = "httpx2"
INSTALL = "pip install 'pytest-falsify[served]'"
AGAIN = frozenset({429, 502, 503, 504})
"""Statuses after which the same request may be sent again."""
DENIED = frozenset({401, 403})
FIRST_DELAY = 0.25
LONGEST_DELAY = 60.0
JITTER = 0.25
"""By what share a delay is lengthened at random, so that many clients do not come back at once."""
_QUOTED = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a server answered.

    Attributes:
        body: the JSON object.
        retried: what each earlier try of the same request met, ``503`` or ``ConnectError``.
        is_stored: a cache between here and the server says that it had the answer.
    """

    body: Mapping[str, Any]
    retried: tuple[str, ...] = ()
    is_stored: bool = False


class Client:
    """One server. Threads may share it; what it raises names the capture, and no host.

    Args:
        url: the server's, with or without ``/v1``.
        name: the capture's, for messages.
        key: sent as a bearer token; it appears nowhere else.
        concurrency: how many requests may be on their way at once.
        timeout: seconds that one may take.
        retries: how often one is sent again.

    Raises:
        Blocked: when the HTTP library is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        key: str | None = None,
        concurrency: int = 4,
        timeout: float = 120.0,
        retries: int = 4,
    ) -> None:
        if find_spec(PACKAGE) is None:
            msg = f"capture `{name}` asks a server, and {PACKAGE} is not installed"
            raise Blocked(msg, remedy=INSTALL)
        import httpx2

        self._name = name
        self._key = key
        self._retries = retries
        self._failures = httpx2.TransportError
        self._http = httpx2.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx2.Limits(max_connections=concurrency),
            timeout=httpx2.Timeout(timeout, pool=None),  # a request may wait for its turn
        )

    def __del__(self) -> None:
        if hasattr(self, "_http"):
            self._http.close()

    def get(self, path: str) -> Mapping[str, Any] | None:
        """Return what stands at a path; None where the server has no such thing.

        Raises:
            Blocked: when the server cannot be reached, or refuses the key.
            CaptureError: when it answers with an error.
        """
        found = self._asked(lambda: self._http.get(path))
        return None if found is None else found.body

    def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """Return the answer to a request; see ``get``.

        Raises:
            Blocked: see ``get``.
            CaptureError: also when there is no such path.
        """
        found = self._asked(lambda: self._http.post(path, json=body))
        if found is None:
            msg = f"the server of capture `{self._name}` has no {path}"
            raise CaptureError(msg, expected="a server of OpenAI's completions")
        return found

    def _asked(self, send: Callable[[], httpx2.Response]) -> Reply | None:
        met: list[str] = []
        while True:
            response = self._sent(send)
            if not isinstance(response, str) and response.status_code not in AGAIN:
                return self._read(response, tuple(met))
            met.append(response if isinstance(response, str) else str(response.status_code))
            delay = _delay(len(met), response)
            if len(met) > self._retries or delay > LONGEST_DELAY:
                raise self._lost(met, delay)
            time.sleep(delay)

    def _sent(self, send: Callable[[], httpx2.Response]) -> httpx2.Response | str:
        """Return the response, or the name of what kept it away."""
        try:
            return send()
        except self._failures as error:
            return type(error).__name__

    def _lost(self, met: list[str], delay: float) -> Blocked:
        msg = f"the server of capture `{self._name}` gave no answer: {', '.join(met)}"
        if delay > LONGEST_DELAY:
            msg = f"{msg}; it asks to wait for {delay:.0f} s"
        return Blocked(msg, remedy="start it, or look at its log")

    def _read(self, response: httpx2.Response, met: tuple[str, ...]) -> Reply | None:
        status = response.status_code
        if status == 404:  # noqa: PLR2004 - the status that everybody knows
            return None
        if status in DENIED:
            msg = f"the server of capture `{self._name}` refuses the request ({status})"
            raise Blocked(msg, remedy="put its key into the variable that `key_env` names")
        if not response.is_success:
            msg = f"the server of capture `{self._name}` answers {status}: {self._quoted(response)}"
            raise CaptureError(msg, expected="an answer to a request for completions")
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, Mapping):
            msg = f"the server of capture `{self._name}` answers something that is no JSON object"
            raise CaptureError(msg, expected="a server of OpenAI's completions")
        return Reply(body=body, retried=met, is_stored=_is_stored(response.headers))

    def _quoted(self, response: httpx2.Response) -> str:
        """Return the beginning of an error's text, without what must not be written down."""
        text = " ".join(response.text.split())[:_QUOTED]
        for secret in (self._key, self._http.base_url.host):
            text = text.replace(secret, "...") if secret else text
        return text


def _delay(tries: int, response: httpx2.Response | str) -> float:
    """Return the seconds to wait: what the server asks for, else twice as long as before."""
    asked = None
    if not isinstance(response, str):
        asked = retry_after(response.headers.get("Retry-After"))
    delay = FIRST_DELAY * 2 ** (tries - 1) if asked is None else asked
    return delay * (1 + JITTER * random.random())  # noqa: S311 - no secret hangs on it


def retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for (RFC 9110, section 10.2.3), or None.

    Args:
        text: whole seconds, or a date.
        now: the time to count a date from; the clock's by default.
    """
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def _is_stored(headers: Mapping[str, str]) -> bool:
    """Tell whether a cache says that it had the answer (RFC 9111, section 5.1; X-Cache)."""
    age = headers.get("Age", "0").strip()
    return age not in {"", "0"} or "hit" in headers.get("X-Cache", "").lower()
