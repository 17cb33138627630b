"""Clients without workers: nobody is there to run their tasks, or only workers of other Pythons.

Functions that travel by value are byte code, and that of another Python's version crashes. So a client's tasks go only
to workers with its own major and minor version. The slots do not decide that: a slot that refuses a task is free again
at once, and so draws nearly all of them (18 of 20). A peer that tells no version goes with all.

A client without such a worker is in one of two cases:

- There was one before, or there is no worker at all. A worker that has lost its connection is back within seconds, so
  the tasks wait, for `no_workers_seconds`.
- There are workers, and none since the client joined was of its Python. That is most likely a mistake in the
  installation, so its tasks are lost at once, with a text that says which versions are where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from minidask.host.versions import PYTHON, fits, mismatch
from minidask.wire import messages as m

from .attempts import Attempts
from .tasks import ClientRecord, WorkerRecord


class Pythons:
    """Which clients can be served by the workers that are there.

    Args:
        clients, workers: all of them, by peer; the scheduler's own tables.
        attempts: loses the tasks that nobody can run.
        send: takes each message to send, with its peer.
        no_workers_seconds: how long ready tasks wait for a first worker that can run them.
    """

    def __init__(
        self,
        clients: Mapping[int, ClientRecord],
        workers: Mapping[int, WorkerRecord],
        attempts: Attempts,
        send: Callable[[int, m.Message], None],
        no_workers_seconds: float,
    ) -> None:
        self._clients = clients
        self._workers = workers
        self._attempts = attempts
        self._send = send
        self._no_workers_seconds = no_workers_seconds

    def check(self, clients: Iterable[ClientRecord]) -> None:
        """Refuse the tasks of those of these clients that never had a worker of their Python, while others are there.

        To be called when a client joins, and when a worker joins, leaves or has another number of slots.
        """
        pythons = self._of_workers()
        for client in clients:
            client.served = client.served or fits(client.python, pythons)
            client.refused = "" if client.served or not pythons else self._mismatch(client)
            if client.refused:
                self._attempts.fail_ready(client, m.Reason.VERSION, client.refused)

    def note(self, worker: WorkerRecord, client: ClientRecord) -> None:
        """Write to the worker's log that it gets no tasks of this client, if that is so; once for each Python."""
        if client.nested or fits(client.python, (worker.python,)) or client.python in worker.noted_pythons:
            return
        worker.noted_pythons.add(client.python)
        self._send(worker.peer, m.Notice(
            f"machine {worker.name} runs Python {worker.versions[PYTHON]} and client {client.name} Python"
            f" {client.python}, which cannot run each other's functions: it gets none of the tasks of such clients"
        ))  # fmt: skip

    def tick(self, now: float) -> None:
        """Lose the tasks of clients that had no worker for too long."""
        pythons = self._of_workers()
        for client in list(self._clients.values()):
            if not client.tasks or fits(client.python, pythons):
                client.starved_since = None
            elif client.starved_since is None:
                client.starved_since = now
            elif now - client.starved_since >= self._no_workers_seconds:
                client.starved_since = None
                self._attempts.fail_ready(client, m.Reason.NO_WORKERS, self._no_worker_came(client))

    def discount(self, seconds: float, now: float) -> None:
        """Do not count time in which the scheduler stood still, and no worker could join."""
        for client in self._clients.values():
            if client.starved_since is not None:
                client.starved_since = min(now, client.starved_since + seconds)

    def _of_workers(self) -> set[str]:
        """The Pythons of all workers that take tasks."""
        return {worker.python for worker in self._workers.values() if worker.slots}

    def _mismatch(self, client: ClientRecord) -> str:
        workers = [(f"{w.name} at {w.address}", w.versions[PYTHON]) for w in self._workers.values() if w.slots]
        return mismatch(client.python, workers)

    def _no_worker_came(self, client: ClientRecord) -> str:
        others = f". Now {self._mismatch(client)}" if self._of_workers() else ""
        return (
            f"no worker was there to run it for {self._no_workers_seconds:.0f} seconds:"
            f" start some with minidask-worker ADDRESS, on as many machines as you like{others}"
        )
