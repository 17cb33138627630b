"""Runs the caller's own code beside the thread that reads the connection: screens, log handlers, handlers of channels.

Such code may raise anything, and it may never come back. `sys.stdout` may be a window that waits for the main thread,
or a terminal that was stopped. So the thread that reads only queues it. An `Aside` is one queue with one thread:

    reading thread                          thread of the Aside
    ──────────────                          ───────────────────
    put(item) ───────────queue──────────►   handle(item), one after the other
    flush(seconds) ──a lock, in the queue─► release the lock: all before it was handled

A client has two of them: one for output and log records, one for the messages that tasks send on channels. One thread
for both would change what users see. A handler that takes long would hold back the screen. A terminal that was stopped
would hold back a library's messages. And the thread that reads waits a moment for each line to be shown: it would then
wait for handlers, and the outcomes of all tasks with it.
"""

from __future__ import annotations

import _thread
import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from minidask.client.interrupts import INTERRUPT_SECONDS

FLUSH_SECONDS = 5.0
"""The longest wait for one item to be handled, when a call ends or a task's outcome is asked for."""

T = TypeVar("T")


class Aside(Generic[T]):
    """Handles items in order in a thread of its own, which starts with the first item.

    Args:
        name: of the thread.
        handle: handles one item, and raises nothing.
        most: how many items may wait. Further ones are left out: to wait would stop the reading.
        tell_left_out: called with the number of items that were left out, once no items wait any more.
    """

    def __init__(self, name: str, handle: Callable[[T], None], most: int, tell_left_out: Callable[[int], None]) -> None:
        self._name = name
        self._handle = handle
        self._most = most
        self._tell_left_out = tell_left_out
        self._queue: queue.SimpleQueue[tuple[T] | _thread.LockType | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        # Each count has one thread that changes it: the one that reads, or the one that handles.
        self._received = self._left_out = 0
        self._handled = self._told_left_out = 0
        self._over = self._stuck = False

    @property
    def busy(self) -> bool:
        """Whether an item was not handled yet."""
        return self._received != self._handled

    def put(self, item: T) -> None:
        """Queue an item; called in the thread that reads the connection."""
        if self._received - self._handled >= self._most:
            self._left_out += 1
            return
        self._received += 1
        self._queue.put((item,))
        if self._thread is None:
            thread = _AsideThread(target=self._handle_all, name=self._name, daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads can be started: the next item tries again
                thread.start()
                self._thread = thread

    def flush(self, seconds: float = math.inf) -> bool:
        """Wait until all items that were put so far were handled.

        Args:
            seconds: to wait at most. For one item the wait is at most `FLUSH_SECONDS`; while that item is still being
                handled, later calls do not wait at all.

        Returns:
            Whether they were.
        """
        if not self.busy or self._thread is threading.current_thread():
            return True
        if self._over or self._stuck or self._thread is None:
            return False
        over = _thread.allocate_lock()  # no `Event`: Ctrl-C could leave it locked, see `interrupts.py`
        over.acquire()
        self._queue.put(over)
        now, before = time.monotonic(), self._handled
        end, end_of_item = now + seconds, now + FLUSH_SECONDS
        while not over.acquire(timeout=max(0.0, min(INTERRUPT_SECONDS, end - now, end_of_item - now))):
            now = time.monotonic()
            if self._over or now >= end:
                return not self.busy
            if self._handled != before:
                before, end_of_item = self._handled, now + FLUSH_SECONDS
            elif now >= end_of_item:
                self._stuck = True
                return False
        return True

    def close(self) -> None:
        """End the thread once all items were handled."""
        self._queue.put(None)

    def abandon(self) -> None:
        """Forget items and thread in a forked child: both are the parent's."""
        self._queue, self._thread, self._received, self._handled = queue.SimpleQueue(), None, 0, 0
        self._stuck = False

    def _handle_all(self) -> None:
        while (entry := self._queue.get()) is not None:
            if isinstance(entry, tuple):
                self._handle(*entry)
                self._handled += 1
                self._stuck = False
            else:
                entry.release()
            if self._left_out != self._told_left_out and not self.busy:
                new, self._told_left_out = self._left_out - self._told_left_out, self._left_out
                self._tell_left_out(new)
        self._over = True
        while not self._queue.empty():  # nobody is to wait for what comes after the end
            entry = self._queue.get()
            if entry is not None and not isinstance(entry, tuple):
                entry.release()


class _AsideThread(threading.Thread):
    serves_all_tasks = True  # not only the one that was the first to need it
