"""Futures that a task waits for: the thread that waits helps, by running what its slot is given meanwhile.

    result, exception, wait, as_completed ──► help_until ──► Reader.lead ──► messages, and calls for the slot

A task that waits would else keep its slot from the very calls that it waits for. `docs/decisions.md` says why it runs
its own descendants only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from minidask.client.future import Future, Owner
from minidask.client.outcomes import Outcome
from minidask.client.reading import Reader
from minidask.task.context import waiting, working_for

LOOK_SECONDS = 0.05
"""How often a thread that waits looks whether another one still helps its slot, and whether it was cancelled."""


class NestedFuture(Future):
    """A future in a task. A thread that waits for it runs the guests of its slot meanwhile.

    Args:
        number: of the task.
        name: of the task.
        owner: the shell of the client.
        reader: the shell's.
        parent: number and attempt of the task that has submitted this one. Callbacks work for it, in any thread.
    """

    def __init__(self, number: int, name: str, owner: Owner, reader: Reader, parent: list[int]) -> None:
        super().__init__(number, name, owner)
        self._reader = reader
        self._parent = parent
        self._waiters = _Waiters(reader)  # where `concurrent.futures` puts what waits for several futures

    def settle(self, outcome: Outcome, wait_for_messages: Callable[[float], object] | None = None) -> None:
        """Take the outcome that the scheduler sent, and run callbacks for the task that has submitted this one.

        Args:
            wait_for_messages: waits, at most so many seconds, until the task's messages to its caller were handled.
        """
        assert self._reader.slot is not None
        with working_for(self._reader.slot, self._parent):
            super().settle(outcome, wait_for_messages)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait, at most `timeout` seconds, and run the slot's guests meanwhile.

        Returns:
            The exception that the task raised; None if it returned.

        Raises:
            TimeoutError: the task is not done by then.
        """
        if not self._reader.in_this_thread():
            timeout = help_until(self.done, timeout, self._reader)
        return super().exception(timeout)


class _Waiters(list[Any]):
    """A list of `concurrent.futures`' waiters. Their threads run the slot's guests while they wait."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self._reader = reader

    def append(self, waiter: Any) -> None:
        """Add a waiter; it may be in the list of another future too."""
        if not isinstance(waiter.event, _HelpingEvent):
            waiter.event = _HelpingEvent(self._reader)
        super().append(waiter)


class _HelpingEvent(threading.Event):
    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self._reader = reader

    def wait(self, timeout: float | None = None) -> bool:
        """Run the slot's guests until the event is set, at most `timeout` seconds; return whether it is set."""
        help_until(self.is_set, timeout, self._reader)
        return self.is_set()


def help_until(done: Callable[[], bool], timeout: float | None, reader: Reader) -> float | None:
    """Run the guests of this thread's slot until `done` is true, or for `timeout` seconds.

    Returns:
        How many of the seconds are left; None for no limit.
    """
    end = None if timeout is None else time.monotonic() + timeout
    slot = reader.slot
    with waiting(slot, [] if slot is None or done() else slot.call):
        _help(done, end, reader)
    return None if end is None else max(0.0, end - time.monotonic())


def _help(done: Callable[[], bool], end: float | None, reader: Reader) -> None:
    while not done() and (end is None or time.monotonic() < end):
        with reader.lead() as leadership:
            if leadership is None:
                threading.Event().wait(LOOK_SECONDS)  # another thread of this slot helps
                continue
            while not done() and not reader.wanted_back and (end is None or time.monotonic() < end):
                left = LOOK_SECONDS if end is None else min(LOOK_SECONDS, end - time.monotonic())
                leadership.read(max(0.0, left))
