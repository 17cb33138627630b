"""The client that a task uses: what it submits is that task's, and while it waits for it, its slot runs it.

    result, exception, wait, as_completed, Parallel ──► Reading.borrowed ──► messages, and calls for the slot

Every slot has a connection of its own to the scheduler, made when a task first needs one and kept for the next.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from minidask.client.client import Client
from minidask.client.connection import Connection
from minidask.client.core import Outcome
from minidask.client.future import Future
from minidask.client.group import TaskGroup
from minidask.client.link import Hooks, Link
from minidask.client.reading import Reading
from minidask.client.registry import live_clients
from minidask.errors import AuthenticationError, SchedulerLost
from minidask.pickling.payload import LARGE_BYTES, SHARED
from minidask.task.context import SlotOfTask, waiting, working_for

RETURN_SECONDS = 5.0
LOOK_SECONDS = 0.05
"""How often a thread that waits looks whether another one still helps its slot, and whether it was cancelled."""


class TaskClient(Client):
    """A client for the tasks of one slot.

    Args:
        slot: in which it is.
    """

    nested = True

    def __init__(self, slot: SlotOfTask) -> None:
        self._slot = slot
        self.idle: bool | None = None
        """Whether there are slots with nothing to do; None while a call that wants to know has not been told yet."""
        self.on_idle: list[Callable[[], None]] = []
        """Called, by whoever reads, when there are such slots."""
        super().__init__(slot.scheduler, access_file=slot.access_file or None, forward_output=False)

    def _within(self, connection: Connection) -> tuple[SlotOfTask, Hooks]:
        return self._slot, Hooks(nested_future, self._told_idle, self._ended)

    def group(self, limit: int = 0, large: int | None = LARGE_BYTES, mode: bytes = SHARED) -> TaskGroup:
        """As `Client.group`; the scheduler tells, each time, whether there are slots with nothing to do."""
        if not self.on_idle:
            self.idle = None  # what it told a call before is old
        return super().group(limit, large, mode)

    def close(self) -> None:
        """Nothing happens: the client is the slot's, for all its tasks. `end` is for the slot."""

    def end(self) -> None:
        """The slot has come to its end."""
        super().close()

    def _ended(self) -> None:
        with contextlib.suppress(ValueError):
            live_clients.remove(self)

    def _told_idle(self, idle: bool) -> None:
        self.idle = idle
        for call in list(self.on_idle) if idle else ():
            call()


def nested_future(link: Link, number: int, name: str, parent: list[int]) -> Future:
    """A future for a task's own use."""
    return NestedFuture(number, name, link.cancelled, link.reading, parent)


class NestedFuture(Future):
    """A future in a task: waiting for it, the thread runs what its slot is given.

    Args:
        reading: of the client.
        parent: the call that has submitted the task; callbacks work for it, whichever thread runs them.
    """

    def __init__(
        self, number: int, name: str, cancel: Callable[[Future], None], reading: Reading, parent: list[int]
    ) -> None:
        super().__init__(number, name, cancel, reading.in_this_thread)
        self._reading = reading
        self._parent = parent
        self._waiters = _Waiters(reading)  # where `concurrent.futures` puts what waits for several futures

    def settle(self, outcome: Outcome) -> None:
        """As `Future.settle`."""
        assert self._reading.slot is not None
        with working_for(self._reading.slot, self._parent):
            super().settle(outcome)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As the standard one."""
        if not self._reading.in_this_thread():
            timeout = help_until(self.done, timeout, self._reading)
        return super().exception(timeout)


class _Waiters(list[Any]):
    """Waiters of `concurrent.futures`, made to help while they wait."""

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self._reading = reading

    def append(self, waiter: Any) -> None:
        """Take one; it may have been put into the list of another future before."""
        if not isinstance(waiter.event, _HelpingEvent):
            waiter.event = _HelpingEvent(self._reading)
        super().append(waiter)


class _HelpingEvent(threading.Event):
    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self._reading = reading

    def wait(self, timeout: float | None = None) -> bool:
        """As the standard one."""
        help_until(self.is_set, timeout, self._reading)
        return self.is_set()


def help_until(done: Callable[[], bool], timeout: float | None, reading: Reading) -> float | None:
    """Run what the slot of this thread's task is given, until something is done, or for `timeout` seconds.

    Returns what is left of those.
    """
    end = None if timeout is None else time.monotonic() + timeout
    slot = reading.slot
    with waiting(slot, [] if slot is None or done() else slot.call):
        _help(done, end, reading)
    return None if end is None else max(0.0, end - time.monotonic())


def _help(done: Callable[[], bool], end: float | None, reading: Reading) -> None:
    while not done() and (end is None or time.monotonic() < end):
        with reading.borrowed() as borrowed:
            if borrowed is None:
                threading.Event().wait(LOOK_SECONDS)  # another thread of this slot helps
                continue
            while not done() and not reading.claimed and (end is None or time.monotonic() < end):
                left = LOOK_SECONDS if end is None else min(LOOK_SECONDS, end - time.monotonic())
                borrowed.read(max(0.0, left))


_connecting = threading.Lock()


def client_of(slot: SlotOfTask) -> TaskClient:
    """The client of a slot: connected if it is not yet, or no more."""
    with _connecting:
        if slot.client is None or slot.client.closed:
            slot.client = _connect(slot)
        client: TaskClient = slot.client
        return client


def _connect(slot: SlotOfTask) -> TaskClient:
    """Connect; a scheduler on this machine gets the time to notice that somebody has removed its socket."""
    end = time.monotonic() + (RETURN_SECONDS if slot.scheduler.startswith("unix:") else 0)
    while True:
        try:
            return TaskClient(slot)
        except (SchedulerLost, AuthenticationError):
            if time.monotonic() > end:
                raise
        time.sleep(LOOK_SECONDS)
