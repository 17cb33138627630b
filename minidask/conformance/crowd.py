"""Clients and workers of a scheduler that is checked."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidask.errors import MinidaskError
from minidask.wire import messages as m

from .checks import Differs, Stage, expect, until
from .peer import Peer, Silent, initiator

SECONDS = 20.0
QUIET_SECONDS = 0.3
PYTHON = "3.11.7"


class SchedulerStage(Stage):
    """Clients and workers of one scheduler, which goes on from check to check."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        super().__init__(command, folder)
        self.listener.close()  # its port is the scheduler's now
        self._peers: list[Peer] = []
        self._names = itertools.count(1)

    def connect(self) -> Peer:
        """Connect, over TLS. The scheduler is started if it does not run."""
        if not self.runs:
            self.start()
            until(lambda: self._listens() or not self.runs, "it does not listen", SECONDS)
        peer = Peer.connect(self.at, self.credentials)
        self._peers.append(peer)
        return peer

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.at.host, self.at.port), 1.0):
            return True
        return False

    def client(self, **info: Any) -> Peer:
        """A client that has joined; its first message is still to be read."""
        peer = self.connect()
        about = {"name": f"client {next(self._names)}", "host": "kit", "pid": 1, "python": PYTHON}
        peer.shake(initiator(self.credentials, "client", {**about, **info}))
        return peer

    def worker(self, slots: int = 1, **info: Any) -> Peer:
        """A worker that has joined."""
        peer = self.connect()
        number = next(self._names)
        about = {"name": f"worker {number}", "host": "kit", "pid": 1, "python": PYTHON, "uid": f"{number}"}
        peer.shake(initiator(self.credentials, "worker", {**about, "slots": slots, **info}))
        return peer

    def pair(self, slots: int = 1) -> tuple[Peer, Peer]:
        """A worker, and a client that has heard of it."""
        worker = self.worker(slots)
        client = self.client()
        client.wait_for(m.Workers)
        return worker, client

    def between(self) -> None:
        """Close all connections, and wait until the scheduler has no worker."""
        peers, self._peers = self._peers, []
        for peer in peers:
            peer.close()
        if not self.runs or not peers:
            return
        with contextlib.suppress(Silent, OSError, MinidaskError, Differs):  # then the next check tells
            client = self.client()
            there = {row[0] for row in client.wait_for(m.Workers).workers}
            while there:
                changed = client.wait_for(m.WorkerChanged)
                (there.add if changed.slots is not None else there.discard)(changed.address)
        for peer in self._peers:
            peer.close()
        self._peers.clear()

    def end(self) -> None:
        """End the scheduler, and all connections."""
        super().end()
        for peer in self._peers:
            peer.close()
        self._peers.clear()


def submit(task: int, **fields: Any) -> m.Submit:
    """A task, with other fields than usual."""
    usual = m.Submit(task, f"task {task}", 0, None, 0, None, [], [], False, {}, [b"a pickle"])
    return usual._replace(**fields)


def done(run: m.Run) -> m.Done:
    """A worker's answer to a Run."""
    return m.Done(run.task, run.attempt, 0.5, [b"the result"])


def expect_quiet(peer: Peer, *kinds: type) -> None:
    """Go on if no message of some kinds comes for a moment.

    Raises:
        Differs: one has come.
    """
    end = time.monotonic() + QUIET_SECONDS
    with contextlib.suppress(Silent):
        while True:
            message = peer.next(end - time.monotonic())
            expect(not isinstance(message, kinds), f"{str(message)[:200]} came")


def expect_task_lost(client: Peer, task: int, reason: str) -> None:
    """Go on if a task has no outcome of its own, for this reason."""
    found = client.wait_for(m.TaskLost)
    expect((found.task, found.reason) == (task, reason), f"it said {found}")


def expect_goodbye(peer: Peer) -> None:
    """Go on if the scheduler says Goodbye with a reason, and closes the connection."""
    expect(peer.wait_for(m.Goodbye, SECONDS).reason, "its reason is empty")
    expect(peer.is_closed(SECONDS), "it did not close the connection")
