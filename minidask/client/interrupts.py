"""Keeps the handlers of signals from raising at a moment when it would break something, and waits that nothing breaks.

Ctrl-C is such a signal, an alarm that is a time limit another. A handler runs in the main thread, between any two steps
of it. What a thread reads from the socket would be lost there, so handlers wait while it does (`Uninterrupted`). All
else is written so that it may end anywhere: a lock is taken by a `with` that is one step (`Condition`, and what
`threading` has in C; not `threading.Condition`, which a handler may leave locked), and what a step begins the next
one to come goes on with, as in `outbox.py`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes enums of what this returns, in twenty times the time
import _thread
import collections
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

INTERRUPT_SECONDS = 0.5
"""The longest single wait. Python looks for signals before it gives up the interpreter, so one that comes right after
that is not seen before the wait ends; under load, some do."""
_NUMBERS = sorted(map(int, signal.valid_signals()))


class Uninterrupted:
    """Puts off the handlers of signals that come inside the block to its end. It only concerns the main thread.

    Args:
        wake: called when one comes, to end a wait; None where there is none.
    """

    __slots__ = ("_came", "_handlers", "_passing", "_replaced", "_wake")

    def __init__(self, wake: Callable[[], None] | None = None) -> None:
        self._wake = wake
        self._came: collections.deque[int] = collections.deque()
        self._passing = False  # whether handlers run at once
        self._handlers: dict[int, Handler] = {}
        self._replaced: list[int] = []

    def __enter__(self) -> Uninterrupted:
        if threading.get_ident() == threading.main_thread().ident:
            try:
                for number, handler in zip(_NUMBERS, map(_signal.getsignal, _NUMBERS), strict=True):
                    if callable(handler):
                        self._handlers[number] = handler
                        self._replaced.append(number)
                        _signal.signal(number, self._on_signal)
            except BaseException:  # one that was not put off yet
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._put_back()
        finally:
            self.check()

    def _put_back(self) -> None:
        """Have the caller's handlers in their places again, whatever those do that are there already."""
        try:
            while self._replaced:
                number = self._replaced[-1]
                if _signal.getsignal(number) == self._on_signal:  # else a callback has put its own there
                    _signal.signal(number, self._handlers[number])
                self._replaced.pop()
            self._passing = True  # who has kept ours as the handler before its own puts it back later
        finally:
            if self._replaced:
                self._put_back()

    def run_interruptible(self, code: Callable[[], None]) -> None:
        """Run a part of the block, a user's code, that handlers may interrupt after all."""
        try:
            self._passing = True
            self.check()
            code()
        finally:
            self._passing = False

    def check(self) -> None:
        """Have the handlers run of those signals that have come."""
        if self._came:
            number = self._came.popleft()
            try:
                self._handlers[number](number, sys._getframe())
            finally:
                self.check()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._passing:
            self._handlers[number](number, frame)
        else:
            self._came.append(number)
            if self._wake is not None:
                self._wake()


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
