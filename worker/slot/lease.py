"""A lease: a task that stands for many. Its slot runs the calls of a client's queue, one after another.

    the queue's pipe ─► take ─► _run ─► Slot.outcome ─► give ─► the pipe of results     nobody in between
                                                     └► CallDone, CallFailed ─► daemon ─► scheduler ─► client

To scheduler and daemon a lease is a task like any other. So turns, limits, deaths, stops and lent slots need no second
set of rules. `minidask/data/callqueue.py` has the queue itself.

**Which way an outcome goes.** Straight to the client goes a small result of a call that has said nothing else. All
other outcomes go through the daemon, since they have an order to keep. What a call prints comes before its result, and
so does what it logs or tells its caller. The slot cannot see how far the daemon has read its output. But it can see
whether there was any: bytes that are still in a pipe, or a change of the daemon's count of reads (`OutputCount`). The
daemon counts before it reads, and the slot looks into the pipes before it looks at the count. So no output is missed.

**When a lease ends.** The queue was empty for `IDLE_SECONDS`; others need the slot (`Yield`, `LEAVE`); a call was
stopped; the client is gone. And a call that leaves tasks of its own behind ends it too: they are children of the lease,
and end with that. Where a lease waits for the slot, this one has some time left (`Yield.after`), and ends before that
only if the queue is empty for `PAUSE_SECONDS`: a client takes less to put the next call after a result.
"""

from __future__ import annotations

import array
import fcntl
import select
import termios
import time
from typing import Any, Protocol

from minidask.data.callqueue import QueueEnd
from minidask.errors import SerializationError
from minidask.pickling.sharing import dumps
from minidask.wire import messages as m
from minidask.wire.tickets import LEAVE, QueuedCall

from .reads import OutputCount
from .stops import RunningCall

IDLE_SECONDS = 0.02
PAUSE_SECONDS = 0.001


class Host(Protocol):
    """The slot that has a lease; `Slot` is one.

    Attributes:
        told: whether the call that runs has told its caller something.
    """

    told: bool

    def fileno(self) -> int:
        """The descriptor that gets readable when the daemon has said something."""

    def receive(self, *, wait: bool = False) -> None:
        """Read and handle messages of the daemon."""

    def send(self, message: m.Message) -> None:
        """Send the daemon a message."""

    def lacking(self, blobs: list[bytes]) -> list[bytes]:
        """Those blobs that the slot does not have."""

    def outcome(self, run: m.Run, call: RunningCall, number: int = 0) -> m.Done | m.Failed:
        """Run a call, which has this number at its client."""

    def failed(self, run: m.Run, error: BaseException, began: float) -> m.Failed:
        """The outcome of a call that has raised."""

    def flush_output(self, call: RunningCall) -> None:
        """Write out what a call has printed."""

    def has_unfinished(self, call: RunningCall) -> bool:
        """Whether a call has left tasks, or threads that wait for tasks, behind."""


class Lease:
    """One lease, from its `Run` to its end.

    Args:
        slot: that has it.
        run: the lease.
        call: stands for whatever call of the lease runs, for stops.
        reads: counts the daemon's readings of output.

    Raises:
        OSError: the queue cannot be opened.
    """

    def __init__(self, slot: Host, run: m.Run, call: RunningCall, reads: OutputCount) -> None:
        self._slot = slot
        self._run = run
        self._call = call
        self._reads = reads
        self._began = time.perf_counter()
        self._ends_at: float | None = None
        self._coming: set[bytes] = set()  # blobs that were asked for
        self._lost: dict[bytes, str] = {}
        self._queue = QueueEnd(run.payload[0])
        try:
            self._waiter = _Waiter(self._queue.pipe, slot.fileno())
        except BaseException:
            self._queue.close()
            raise

    def heed(self, message: m.Yield) -> None:
        """End when the call in hand is over, if the lease is so old then; nothing happens if another one is meant."""
        if message[:2] == self._run[:2]:
            ends_at = self._began + message.after
            self._ends_at = ends_at if self._ends_at is None else min(self._ends_at, ends_at)

    def blob_came(self, blob: bytes) -> None:
        """Note that a blob is here. It may be released again, and asked for again."""
        self._coming.discard(blob)

    def blob_lost(self, blob: bytes, text: str) -> None:
        """Note that a blob will not come, for the reason in `text`."""
        self._coming.discard(blob)
        self._lost[blob] = text

    def serve(self) -> m.Done:
        """Run calls until the lease is over."""
        waiter = self._waiter
        try:
            while not self._is_over():
                queued = self._queue.take()
                if isinstance(queued, QueuedCall):
                    self._serve(queued)
                    ready = waiter.wait(0)
                elif queued == LEAVE:
                    break
                else:
                    ready = waiter.wait(IDLE_SECONDS if self._ends_at is None else PAUSE_SECONDS)
                    if not ready:
                        break
                if self._slot.fileno() in ready:
                    self._slot.receive()
        except EOFError:
            pass  # the client is gone, and so is whoever would want to know
        finally:
            waiter.close()
            self._queue.close()
        return m.Done(self._run.task, self._run.attempt, time.perf_counter() - self._began, dumps(None, "None"))

    def _is_over(self) -> bool:
        if self._call.stopped or self._call.stop_pending or self._slot.has_unfinished(self._call):
            return True
        return self._ends_at is not None and time.perf_counter() >= self._ends_at

    def _serve(self, queued: QueuedCall) -> None:
        slot, reads = self._slot, self._reads.value
        slot.told = False
        run = self._run._replace(name=queued.name, blobs=queued.blobs, payload=queued.payload)
        outcome: m.Done | m.Failed | None = self._fetch(run) if slot.lacking(queued.blobs) else None
        if outcome is None:
            outcome = slot.outcome(run, self._call, queued.number)
        slot.flush_output(self._call)
        if isinstance(outcome, m.Failed):
            slot.send(m.CallFailed(run.task, run.attempt, queued.number, *outcome[2:]))
        elif (
            len(outcome.payload) > 1
            or slot.told
            or reads != self._count_of_reads()
            or not self._queue.give(queued.number, outcome.duration, outcome.payload[0])
        ):
            slot.send(m.CallDone(run.task, run.attempt, queued.number, outcome.duration, outcome.payload))
        self._queue.done()

    def _fetch(self, run: m.Run) -> m.Failed | None:
        """Have the daemon send blobs, and wait for them. Returns the outcome of the call if one cannot be had.

        Meanwhile others may go that were here: an earlier call's, released before this one's client announced them.
        """
        began = time.perf_counter()
        while missing := [blob for blob in self._slot.lacking(run.blobs) if blob not in self._lost]:
            new = [blob for blob in missing if blob not in self._coming]
            if new:
                self._coming.update(new)
                self._slot.send(m.WantBlobs(run.task, run.attempt, new))
            self._slot.receive(wait=True)
        lost = [text for blob, text in self._lost.items() if blob in run.blobs]
        self._lost.clear()
        return self._slot.failed(run, SerializationError(f"its data cannot be had: {lost[0]}"), began) if lost else None

    def _count_of_reads(self) -> int:
        """The count of reads; -1 while output waits to be read."""
        try:
            if _unread(1) or _unread(2):
                return -1
        except OSError:
            return -1  # a task has closed it, or put something else there
        return self._reads.value


def _unread(pipe: int) -> int:
    size = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, size)
    return size[0]


class _Waiter:
    """Waits for the queue and for the daemon. Of several slots that wait for a queue, a ticket wakes one (Linux)."""

    def __init__(self, pipe: int, socket: int) -> None:
        self._poll: Any
        if hasattr(select, "EPOLLEXCLUSIVE"):
            self._poll = select.epoll(2)
            self._unit = 1
            self._poll.register(pipe, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        else:
            self._poll = select.poll()
            self._unit = 1000
            self._poll.register(pipe, select.POLLIN)
        self._poll.register(socket, select.EPOLLIN if self._unit == 1 else select.POLLIN)

    def wait(self, seconds: float) -> list[int]:
        """Wait so many seconds at most. Returns the descriptors that are readable."""
        return [number for number, _ in self._poll.poll(seconds * self._unit)]

    def close(self) -> None:
        """Let go of what was made to wait."""
        if hasattr(self._poll, "close"):
            self._poll.close()
