"""Ctrl-C in the client: waiting that a signal's handler may end anywhere, and nothing is left locked.

Python runs the handler of a signal in the main thread, between any two steps of the code that happens to run there. The
handler of Ctrl-C raises `KeyboardInterrupt` at that point; one of an alarm that is a time limit raises an error of its
own. Four kinds of code have to live with that, and each does it in its own way:

    sends bytes        a frame in halves ends the connection   `outbox.py`: the next sender goes on with it
    handles messages   bytes that were read are lost           `host/signals.py`: `Uninterrupted` puts handlers off
    catches errors     the handler's error is taken for ours   `host/signals.py`: `pass_on` knows it by its traceback
    waits              a lock stays locked for good            this file

Why a wait may leave a lock behind. A `threading.Condition` is a class in Python. Its `wait` makes a lock, appends it to
a list, releases the condition's own lock, sleeps, and takes that lock again. A handler that raises between two of these
steps leaves the condition locked, or unlocked where a `with` will unlock it once more. The thread that reads, which is
to settle a future of that condition, then hangs for ever. `Event`, `Queue` and the standard `Future` are made of it.

What is safe. A `Lock` or an `RLock` is one object in C. A `with` calls its `__enter__` and `__exit__` in one step each,
and Python runs no handler between the lock being taken and the block being entered. So `with lock:` is safe; and
`lock.acquire()` followed by `try` is not.

So threads here sleep without a lock. `Sleepers` is a list of locks, one for each thread that sleeps, each locked:

    sleeper                               waker
    ───────                               ─────
    1  look: is it true?
    2  lock the own alarm                 a  make it true
    3  append the alarm to the list       b  pop an alarm from the list
    4  look again: is it true?            c  release it
    5  wait for the alarm

If (a) comes before (4), the sleeper sees it. If it comes after (4), the alarm is in the list already, so that (b) finds
it. Each step is one operation of a list or a lock, which the interpreter does not interrupt. A sleeper that a handler
ends anywhere leaves at most an alarm in the list that nobody waits for; its `finally` removes that.

Ctrl-C itself ends such a wait: Python looks for signals when a `Lock` is waited for in the main thread. There is a gap:
a signal that comes right after Python has looked, and before it gives up the interpreter, is not seen until the wait
ends. Hence no single wait is longer than `INTERRUPT_SECONDS`.
"""

from __future__ import annotations

import _thread
import contextlib
import time
from collections.abc import Callable

INTERRUPT_SECONDS = 0.5
"""The longest single wait. Python looks for signals before it gives up the interpreter, so one that comes right after
that is not seen before the wait ends; under load, some do."""


class Sleepers:
    """Threads that sleep until something is true. There is no lock: none can be left locked."""

    def __init__(self) -> None:
        self._sleeping: list[_thread.LockType] = []

    def sleep_until(self, condition: Callable[[], object], seconds: float | None) -> bool:
        """Sleep until a condition is true. It is checked after each `wake`.

        Args:
            condition: is called in this thread, with no lock held.
            seconds: to sleep at most; None: for ever.

        Returns:
            Whether it is true.
        """
        end = None if seconds is None else time.monotonic() + seconds
        alarm = _thread.allocate_lock()
        try:
            while not condition():
                left = INTERRUPT_SECONDS if end is None else min(INTERRUPT_SECONDS, end - time.monotonic())
                if left <= 0:
                    return False
                alarm.acquire(blocking=False)
                if alarm not in self._sleeping:
                    self._sleeping.append(alarm)
                if not condition():
                    alarm.acquire(timeout=left)
        finally:
            self._forget(alarm)
        return True

    def _forget(self, alarm: _thread.LockType) -> None:
        while alarm in self._sleeping:
            with contextlib.suppress(ValueError):  # it was woken just now
                self._sleeping.remove(alarm)

    def wake(self) -> None:
        """Have all sleeping threads check their conditions again."""
        while self._sleeping:
            with contextlib.suppress(IndexError, RuntimeError):  # another thread has taken it, or woken it, just now
                self._sleeping.pop().release()


class Condition(_thread.RLock):  # type: ignore[misc]  # it may be derived from
    """In the place of a `threading.Condition`: to be locked by a `with` that is one step, and without `wait`."""

    def __init__(self) -> None:
        self.sleepers = Sleepers()

    def notify_all(self) -> None:
        """Have all sleeping threads check their conditions again."""
        self.sleepers.wake()
