"""Blobs that calls of leases have overtaken: the call came through a queue, and the blob comes through a socket. Pure.

A client sends a blob before it puts a call that needs it into a queue. The slot that takes the call may still ask for
the blob before the scheduler has read it. Part of `Attempts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from minidask.wire import messages as m

from .tasks import ClientRecord, Running, TaskRecord, WorkerRecord


class OvertakenBlobs:
    """The blobs that are waited for; `ClientRecord.awaited` has them.

    Args:
        give: called with a lease, its worker, and blobs that its client holds: the worker is to get them.
        send: takes each message to send, with its peer.
    """

    def __init__(
        self, give: Callable[[TaskRecord, WorkerRecord, list[bytes]], None], send: Callable[[int, m.Message], None]
    ) -> None:
        self._give = give
        self._send = send

    def wait(self, lease: TaskRecord, blobs: Iterable[bytes]) -> None:
        """Note that a lease needs these blobs, which its client has not announced."""
        for blob in blobs:
            lease.client.awaited.setdefault(blob, ([], 0))[0].append((lease, lease.attempt))

    def came(self, client: ClientRecord, blob: bytes) -> None:
        """A client has announced a blob that its leases may wait for."""
        if client.awaited:
            for lease, worker in self._waiting(client, blob):
                self._give(lease, worker, [blob])

    def tick(self, clients: Iterable[ClientRecord]) -> None:
        """Give up blobs that do not come: between two ticks, all that was sent before the first one is read."""
        for client in clients:
            for blob, (leases, ticks) in list(client.awaited.items()):
                client.awaited[blob] = leases, ticks + 1
                if ticks:
                    for _, worker in self._waiting(client, blob):
                        self._send(worker.peer, m.BlobLost(blob, f"its client does not hold blob {blob.hex()}"))

    def _waiting(self, client: ClientRecord, blob: bytes) -> list[tuple[TaskRecord, WorkerRecord]]:
        """The leases that wait for a blob, each with its worker; from now on they do not."""
        waiting = client.awaited.pop(blob, ([], 0))[0]
        return [
            (lease, lease.state.worker)
            for lease, attempt in waiting
            if lease.attempt == attempt and isinstance(lease.state, Running)
        ]
