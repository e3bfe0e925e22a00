"""The decode worker's process: what it does, and how it is spoken to.

One process serves all sessions of its parent, which loads models once in each. A message is a
tuple, its first member says what is asked. Bytes of caches do not go this way: see ``carriers``.
"""

from __future__ import annotations

import atexit
import multiprocessing
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pytest_falsify.disaggregation.carriers import MemoryReceiver, SocketReceiver
from pytest_falsify.disaggregation.transfer import Transfer
from pytest_falsify.disaggregation.worker import Feed, Worker, show
from pytest_falsify.errors import CaptureError, FalsifyError
from pytest_falsify.stages.vocabulary import TRANSFER, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.connection import Connection

    from pytest_falsify.captures.capture import CapturedTensor
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.disaggregation.caches import LayerCache
    from pytest_falsify.disaggregation.carriers import Receiver, Ticket
    from pytest_falsify.disaggregation.worker import Decoded

LOAD, LISTEN, BEGIN, LAYERS = "load", "listen", "begin", "layers"
RECEIVED, DECODE, STOP = "received", "decode", "stop"
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Shown:
    """What the other process saw and said."""

    tensors: dict[Site, CapturedTensor]
    decoded: Decoded | None


class Remote:
    """A decode worker in a process of its own, started when it is first asked for something."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        atexit.register(self.stop)

    @property
    def pid(self) -> int | None:
        """The process's id."""
        return self._process.pid

    def ask(self, *message: Any) -> Any:
        """Send a message and wait for its answer.

        Raises:
            FalsifyError: the worker's own.
            CaptureError: when the process is gone.
        """
        self.tell(*message)
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if isinstance(answer, FalsifyError):
            raise answer
        return answer

    def tell(self, *message: Any) -> None:
        """Send a message that has no answer.

        Raises:
            CaptureError: when the process is gone.
        """
        try:
            self._connection.send(message)
        except OSError as error:
            raise self._gone() from error

    def stop(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self.tell(STOP)
            self._process.join(_SECONDS)
            self._process.kill()

    def _gone(self) -> CaptureError:
        self._process.join(_SECONDS)
        remote.cache_clear()
        msg = f"the decode worker's process ended with {self._process.exitcode}"
        return CaptureError(msg, remedy="see what it printed; a next run starts another one")


@cache
def remote() -> Remote:
    """Return the process that this one shares among its sessions."""
    return Remote()


def serve(connection: Connection) -> None:
    """Do what is asked until the other end is gone or says so."""
    served = _Served(connection)
    while True:
        try:
            what, *rest = connection.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        if what == STOP:
            return
        served.answer(what, rest)


class _Served:
    """What the process remembers from message to message."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._workers: dict[str, Worker] = {}
        self._memory = MemoryReceiver()
        self._sockets: dict[int, SocketReceiver] = {}
        self._received: dict[int, LayerCache] = {}
        self._failure: FalsifyError | None = None
        self._asked: dict[str, Callable[..., Any]] = {
            LOAD: self._load,
            LISTEN: self._listen,
            RECEIVED: lambda: len(self._received),
            DECODE: self._decode,
        }
        self._told: dict[str, Callable[..., None]] = {BEGIN: self._begin, LAYERS: self._layers}

    def answer(self, what: str, rest: list[Any]) -> None:
        """Do one thing; what fails without being waited for is told with the next answer."""
        try:
            if what in self._told:
                self._told[what](*rest)
                return
            failure, self._failure = self._failure, None
            self._connection.send(failure or self._asked[what](*rest))
        except FalsifyError as error:
            self._fail(what, error)
        except Exception as error:  # noqa: BLE001 - the parent is to be told, whatever it is
            msg = f"the decode worker failed: {type(error).__name__}: {error}"
            self._fail(what, CaptureError(msg))

    def _fail(self, what: str, error: FalsifyError) -> None:
        if what in self._told:
            self._failure = self._failure or error
        else:
            self._connection.send(error)

    def _load(self, key: str, arguments: Mapping[str, Any]) -> bool:
        if key not in self._workers:
            while len(self._workers) >= MOST_WORKERS:
                del self._workers[next(iter(self._workers))]
            self._workers[key] = Worker.load(**arguments)
        return True

    def _listen(self) -> int:
        receiver = SocketReceiver()
        self._sockets[receiver.port] = receiver
        return receiver.port

    def _begin(self) -> None:
        self._failure = None
        self._received = {}
        self._memory.restart()

    def _layers(
        self,
        options: Mapping[str, Any],
        expected: Mapping[int, tuple[int, int, int]],
        port: int | None,
        ticket: Ticket,
    ) -> None:
        receiver: Receiver = self._memory if port is None else self._sockets[port]
        data = receiver.take(ticket)  # also after a failure, or the next bytes would be these
        if self._failure is None:
            self._received |= Transfer(options=options).unpacked(data, expected)

    def _decode(self, key: str, feed: Feed, plan: Plan) -> Shown:
        worker = self._workers[key]
        layers = [self._received[layer] for layer in sorted(self._received)]
        if len(layers) != worker.session.layer_count:
            msg = f"{len(layers)} of {worker.session.layer_count} layers arrived"
            raise CaptureError(msg, expected="the cache of every layer")
        tensors: dict[Site, CapturedTensor] = {}
        if plan.has_transfer:
            show([_placed(worker, each) for each in layers], TRANSFER, plan, tensors.__setitem__)
        decoded = worker.decode(layers, feed, plan, tensors.__setitem__) if feed.steps else None
        return Shown(tensors, decoded)


MOST_WORKERS = 4
"""How many models stay loaded."""


def _placed(worker: Worker, layer: LayerCache) -> LayerCache:
    return replace(layer, keys=worker.place(layer.keys), values=worker.place(layer.values))
