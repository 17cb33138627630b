"""Waiting that a signal's handler may end anywhere, by what it raises, and nothing is left locked.

A `threading.Condition` is locked in several steps, and unlocked again in several while it waits: a handler that raises
between two of them may leave it locked for good. What `threading` has in C, `Lock` and `RLock`, a `with` locks in one.
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
        """Sleep until a condition is true, which is looked at when it is said that something has changed.

        Args:
            seconds: to sleep at most; None: for ever.

        Returns: whether it is.
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
        """Have those who sleep look again."""
        while self._sleeping:
            with contextlib.suppress(IndexError, RuntimeError):  # another thread has taken it, or woken it, just now
                self._sleeping.pop().release()


class Condition(_thread.RLock):  # type: ignore[misc]  # it may be derived from
    """In the place of a `threading.Condition`: to be locked by a `with` that is one step, and without `wait`."""

    def __init__(self) -> None:
        self.sleepers = Sleepers()

    def notify_all(self) -> None:
        """Have those who sleep look again."""
        self.sleepers.wake()
