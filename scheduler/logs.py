"""Who asks for the log of a machine, until that has answered. Pure. Part of `SchedulerCore`.

    client ─ReadLog─► scheduler ─ReadLog─► worker ─Answer─► scheduler ─Answer─► client

The scheduler gives each request a number of its own, and passes the answer on. Its own log is kept by its shell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from minidask.errors import ProtocolError
from minidask.wire import messages as m
from minidask.wire.observing import ReadLog

from .tasks import ClientRecord, WorkerRecord

MOST_REQUESTS = 10_000
"""Of one client, one for each machine."""


class LogReader(NamedTuple):
    """A client, the number of its request, and the worker that is to answer."""

    client: int
    request: int
    worker: int


class LogRequests:
    """All requests that are not answered, by the scheduler's own number.

    Args:
        workers: all workers, by peer; the scheduler's own table.
        send: takes each message to send, with its peer.

    Attributes:
        waiting: how many requests of each client are not answered.
        own: called for the last lines of the scheduler's log, so many at most.
    """

    def __init__(self, workers: Mapping[int, WorkerRecord], send: Callable[[int, m.Message], None]) -> None:
        self.readers: dict[int, LogReader] = {}
        self.waiting: Counter[int] = Counter()  # to count them anew would make many requests quadratic
        self._workers = workers
        self.own: Callable[[int], list[str]] = lambda lines: []
        self._send = send
        self._number = 0

    def ask(self, client: ClientRecord, message: ReadLog) -> None:
        """A client wants the last lines of a log. It is answered, or the worker is asked.

        Raises:
            ProtocolError: it waits for too many already.
        """
        if not message.machine:
            self._send(client.peer, m.Answer(message.request, {"lines": self.own(message.lines)}))
            return
        if self.waiting[client.peer] >= MOST_REQUESTS:
            raise ProtocolError(f"{MOST_REQUESTS} requests for logs wait already")
        worker = next((worker for worker in self._workers.values() if worker.address == message.machine), None)
        if worker is None:
            self._send(client.peer, m.Answer(message.request, {"error": "there is no such machine"}))
            return
        self._number += 1
        self.waiting[client.peer] += 1
        self.readers[self._number] = LogReader(client.peer, message.request, worker.peer)
        self._send(worker.peer, ReadLog(self._number, "", message.lines))

    def answered(self, worker: WorkerRecord, message: m.Answer) -> None:
        """A worker has answered: pass it on. An answer that nobody waits for is dropped."""
        reader = self.readers.get(message.request)
        if reader is not None and reader.worker == worker.peer:
            self._answer(message.request, message.info)

    def lose_worker(self, worker: WorkerRecord) -> None:
        """A worker has left: who waits for its log is told so."""
        for number, reader in list(self.readers.items()):
            if reader.worker == worker.peer:
                self._answer(number, {"error": "it has left the cluster"})

    def lose_client(self, client: ClientRecord) -> None:
        """A client has left: forget its requests."""
        self.readers = {number: reader for number, reader in self.readers.items() if reader.client != client.peer}
        del self.waiting[client.peer]

    def _answer(self, number: int, info: dict[str, Any]) -> None:
        reader = self.readers.pop(number)
        self.waiting[reader.client] -= 1
        self._send(reader.client, m.Answer(reader.request, info))
