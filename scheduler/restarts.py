"""Restarts: clients that wait for fresh slots on all workers, and the workers that each still waits for. Pure.

A worker replaces each of its slots once that is idle, and reports when all are new. The client gets its answer when all
workers have reported. Part of `SchedulerCore`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from minidask.errors import ProtocolError
from minidask.wire import messages as m

from .tasks import ClientRecord, WorkerRecord

MOST_REQUESTS = 100


class Waiter(NamedTuple):
    """A client, the number of its request, and the workers that still have old slots."""

    client: int
    request: int
    workers: set[int]


class Restarts:
    """All restarts that are not over, by the scheduler's own number.

    A worker that joins meanwhile has fresh slots anyway. A worker that leaves is not waited for.

    Args:
        workers: all workers, by peer; the scheduler's own table.
        send: takes each message to send, with its peer.
    """

    def __init__(self, workers: Mapping[int, WorkerRecord], send: Callable[[int, m.Message], None]) -> None:
        self.waiters: dict[int, Waiter] = {}
        self._workers = workers
        self._send = send
        self._number = 0

    def ask(self, client: ClientRecord, message: m.Restart) -> None:
        """A client wants fresh slots: pass its request on to all workers. Without workers it is answered at once.

        Raises:
            ProtocolError: it waits for too many already.
        """
        if sum(waiter.client == client.peer for waiter in self.waiters.values()) >= MOST_REQUESTS:
            raise ProtocolError(f"{MOST_REQUESTS} requests for fresh slots wait already")
        self._number += 1
        self.waiters[self._number] = Waiter(client.peer, message.request, set(self._workers))
        for peer in self._workers:
            self._send(peer, m.Restart(self._number))
        self._answer_if_over(self._number)

    def done(self, worker: WorkerRecord, message: m.Restarted) -> None:
        """A worker has only fresh slots: answer the client, if this was the last worker that it waits for."""
        if message.request in self.waiters:
            self.waiters[message.request].workers.discard(worker.peer)
            self._answer_if_over(message.request)

    def lose_worker(self, worker: WorkerRecord) -> None:
        """A worker has left: no client waits for its slots any more.

        Those that waited for no other one are answered.
        """
        for number, waiter in list(self.waiters.items()):
            waiter.workers.discard(worker.peer)
            self._answer_if_over(number)

    def lose_client(self, client: ClientRecord) -> None:
        """A client has left: forget its requests."""
        self.waiters = {number: waiter for number, waiter in self.waiters.items() if waiter.client != client.peer}

    def _answer_if_over(self, number: int) -> None:
        waiter = self.waiters[number]
        if not waiter.workers:
            del self.waiters[number]
            self._send(waiter.client, m.Answer(waiter.request, {}))
