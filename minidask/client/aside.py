"""Runs the caller's code that messages lead to beside the reading: it may raise anything, and may never come back.

Such is the caller's `sys.stdout`: it may be a window's that waits for the main thread, or a terminal that is stopped.
"""

from __future__ import annotations

import _thread
import contextlib
import queue
import sys
import threading
from collections.abc import Callable

WAIT_SECONDS = 0.5
MOST = 10_000

Code = Callable[[], None]


class Aside:
    """A thread for it, from when there is any. What is to be run is run in order."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Code, _thread.LockType]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stuck = self._failed = False
        self._left_out = 0

    def run(self, code: Code) -> None:
        """Have it run, and wait for it, so that it comes before what comes next; but not for long.

        As long as earlier code does not come back, nothing waits; what is too much then is left out.
        """
        if self._waiting.qsize() >= MOST:
            self._left_out += 1
            return
        over = _thread.allocate_lock()
        over.acquire()
        self._waiting.put((code, over))
        if self._thread is None:
            thread = _AsideThread(target=self._run, name="minidask-output", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # there are no more threads to be had: the next code tries again
                return
            self._thread = thread
        if not self._stuck:
            self._stuck = not over.acquire(timeout=WAIT_SECONDS)

    def _run(self) -> None:
        while True:
            code, over = self._waiting.get()
            try:
                code()
            except BaseException as error:  # noqa: BLE001 - it ends nothing but itself
                self._say_failed(error)
            over.release()
            if self._waiting.empty():
                self._stuck = False
                if self._left_out:
                    _say(f"{self._left_out} times tasks printed what was left out, as the screen stood still")
                    self._left_out = 0

    def _say_failed(self, error: BaseException) -> None:
        if not self._failed:
            self._failed = True
            _say(f"what tasks print cannot be shown: sys.stdout or sys.stderr raised {type(error).__name__}: {error}")


class _AsideThread(threading.Thread):
    serves_all_tasks = True  # not only the one that was the first to need it


def _say(text: str) -> None:
    """Tell the user by the process's own screen: the caller's is what this is about."""
    if sys.__stderr__ is not None:
        with contextlib.suppress(OSError, ValueError):  # it is gone too
            sys.__stderr__.write(f"minidask: {text}\n")
