"""What the scheduler's core answers to those who ask about the cluster, and tells first to those who look. Pure.

Nothing is kept for it but what `stream.py` notes of attempts that have died. All else is read from the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidask.wire import messages as m
from minidask.wire.observing import Explain, ReadLog, Subscribe

from .attempts import Attempts
from .describe import describe
from .holds import number_of
from .logs import LogRequests
from .ready import ReadyQueue
from .router import BlobRouter
from .stream import EventStream
from .tasks import ClientRecord, WorkerRecord
from .waiting import explained


class Answers:
    """Answers questions of clients.

    Args:
        info: what the scheduler tells of itself.
        workers, clients: all of them, by peer; the scheduler's own tables.
        ready, attempts, data, stream: the scheduler's own parts.
        send: takes each message to send, with its peer.

    Attributes:
        logs: requests for logs.
    """

    def __init__(
        self,
        info: dict[str, Any],
        workers: dict[int, WorkerRecord],
        clients: dict[int, ClientRecord],
        ready: ReadyQueue,
        attempts: Attempts,
        data: BlobRouter,
        stream: EventStream,
        send: Callable[[int, m.Message], None],
    ) -> None:
        self._info = info
        self._workers = workers
        self._clients = clients
        self._ready = ready
        self._attempts = attempts
        self._data = data
        self._stream = stream
        self._send = send
        self.logs = LogRequests(workers, send)

    def handlers(self) -> dict[type[Any], Callable[[ClientRecord, Any], None]]:
        """What is done with each message that asks for something."""
        return {m.Ask: self.ask, Subscribe: self.subscribe, Explain: self.explain, ReadLog: self.logs.ask}

    def describe(self, python: str = "") -> dict[str, Any]:
        """The cluster in plain values, for a client with this Python."""
        return describe(self._info, self._workers, self._clients, self._ready, self._attempts.finished, python)

    def ask(self, client: ClientRecord, message: m.Ask) -> None:
        """A client asks what there is in the cluster."""
        self._send(client.peer, m.Answer(message.request, {**self.describe(client.python), "you": client.peer}))

    def subscribe(self, client: ClientRecord, message: Subscribe) -> None:
        """A client wants to be told what happens, or no more."""
        if message.on:
            self._stream.subscribe(client, self.describe(), self._data.holders())
        else:
            self._stream.lose_client(client)

    def explain(self, client: ClientRecord, message: Explain) -> None:
        """A client asks where a task is, and what has become of its attempts. It may be over."""
        task = (client.tasks if message.own else self._attempts.tasks).get(message.task)
        if task is not None:
            number = task.id
        elif message.own and client.keys and message.task < m.OUTLIVES:
            number = number_of(client.keys[0], message.task)
        else:
            number = 0 if message.own else message.task
        why = explained(task, self._workers, self._clients, self._ready, self._data.table)
        told = {"why": why, "task": number, "now": self._stream.now, "rows": self._stream.story(number, task)}
        self._send(client.peer, m.Answer(message.request, told))
