"""Who iterates over what happens in the cluster: `Client.events()`.

    the thread that reads ─ Events ─► EventReader: batches, the last ones ─► whoever iterates, in its own thread

A reader that is slow holds up nobody. It loses what waits for it, and gets a snapshot again. So it does after a new
connection.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from minidask.client.events import ClusterEvent, EventDecoder
from minidask.wire.observing import Events, Subscribe

MOST_BYTES = 1 << 26
"""Of batches that wait for a slow reader."""
LOOK_SECONDS = 0.2
SNAPSHOT_SECONDS = 1.0
"""Between two snapshots that are asked for, as something was missed."""


class EventReader:
    """What happens from now on: an iterator of `ClusterEvent`, and a context manager that ends it.

    It begins with a "snapshot", the machines, the clients, and what runs. It ends when the client is closed.

    Args:
        closed: called for why the client has ended; empty while it has not.
        left: called once, when nobody reads any more.
    """

    def __init__(self, closed: Callable[[], str], left: Callable[[EventReader], None]) -> None:
        self._closed = closed
        self._left = left
        self._batches: collections.deque[tuple[Events, float]] = collections.deque()  # each with when it came
        self._bytes = self._missed = 0
        self._changed = threading.Condition(threading.Lock())
        self._open = True
        self._decoder = EventDecoder()
        self._decoded: collections.deque[ClusterEvent] = collections.deque()

    def put(self, batch: Events) -> bool:
        """Take a batch; called by the thread that reads. Returns whether none was left out."""
        with self._changed:
            self._bytes += len(batch.payload[0])
            fits = self._bytes <= MOST_BYTES
            if not fits:
                self._missed += len(self._batches)
                self._batches.clear()
                self._bytes = len(batch.payload[0])
            self._batches.append((batch, time.time()))
            self._changed.notify()
        return fits

    def get(self, timeout: float | None = None) -> list[ClusterEvent]:
        """Wait for events, and return all that have come.

        Args:
            timeout: seconds to wait for the first one; None: as long as it takes.

        Returns:
            An empty list when the time is over, or the client is closed.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._batches and not self.closed:
                left = LOOK_SECONDS if end is None else min(LOOK_SECONDS, end - time.monotonic())
                if left <= 0:
                    break
                self._changed.wait(left)
            batches, self._batches = self._batches, collections.deque()
            missed, self._missed, self._bytes = self._missed, 0, 0
        text = f"this program was too slow for {missed} batches"
        events = [ClusterEvent("missed", time.time(), text=text)] if missed else []
        for batch, came in batches:
            events += self._decoder.events(batch, came)
        return events

    def __iter__(self) -> Iterator[ClusterEvent]:
        return self

    def __next__(self) -> ClusterEvent:
        while not self._decoded:
            self._decoded.extend(self.get())
            if not self._decoded and self.closed:
                raise StopIteration
        return self._decoded.popleft()

    @property
    def closed(self) -> bool:
        """Whether nothing more will come: this reader is closed, or its client."""
        return not self._open or bool(self._closed())

    def close(self) -> None:
        """Read no more."""
        with self._changed:
            was_open, self._open = self._open, False
            self._changed.notify_all()
        if was_open:
            self._left(self)

    def __enter__(self) -> EventReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Subscription:
    """The readers of one client. The scheduler is told of the first one, and when there is none any more.

    Args:
        send: sends a message, if there is a connection.
        closed: as for `EventReader`.
    """

    def __init__(self, send: Callable[[list[Any]], None], closed: Callable[[], str]) -> None:
        self._send = send
        self._closed = closed
        self._readers: tuple[EventReader, ...] = ()
        self._changing = threading.Lock()
        self._asked = 0.0

    def open(self) -> EventReader:
        """Return a new reader. All readers of the client get a snapshot."""
        reader = EventReader(self._closed, self._leave)
        with self._changing:
            self._readers = (*self._readers, reader)
            self._send([Subscribe(True)])
        return reader

    def _leave(self, reader: EventReader) -> None:
        with self._changing:
            self._readers = tuple(other for other in self._readers if other is not reader)
            if not self._readers:
                self._send([Subscribe(False)])

    def resume(self) -> list[Subscribe]:
        """What tells another scheduler, or a new connection."""
        return [Subscribe(True)] if self._readers else []

    def received(self, batch: Events) -> None:
        """Pass a batch on to all readers. If one of them has missed something, ask for a snapshot."""
        whole = [reader.put(batch) for reader in self._readers]
        if (batch.dropped or not all(whole)) and time.monotonic() >= self._asked + SNAPSHOT_SECONDS:
            self._asked = time.monotonic()
            self._send([Subscribe(True)])
