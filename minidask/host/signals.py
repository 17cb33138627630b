"""Handlers of signals, of which the caller's may raise between any two steps of ours in the main thread.

Ctrl-C is such a signal, an alarm that is a time limit another. What a handler raises is no error of the step that it
came into: whoever catches errors, to say them in other words or to do without, asks here first. Where it would break
something, because bytes that were read would be lost, handlers wait (`Uninterrupted`). All else is written so that it
may end anywhere: a lock is taken by a `with` that is one step, and what one sender has begun the next one goes on with.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes enums of what this returns, in twenty times the time
import collections
import contextlib
import itertools
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

_NUMBERS = sorted(map(int, signal.valid_signals()))
_VARIABLE_ARGUMENTS = 0x04  # `inspect.CO_VARARGS`, without what that module loads


def raised_by_handler(error: BaseException | None) -> bool:
    """Whether a signal's handler, a function in Python, has raised this."""
    trace = error.__traceback__ if error is not None else None
    while trace is not None:
        if _handles_signal(trace.tb_frame):
            return True
        trace = trace.tb_next
    return False


def pass_on(error: BaseException) -> None:
    """Raise this again if a signal's handler has raised it.

    Raises:
        BaseException: the error itself.
    """
    if raised_by_handler(error):
        raise error


class suppress(contextlib.suppress):
    """As the standard one, but for what a signal's handler raises."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return super().__exit__(kind, error, trace) and not raised_by_handler(error)


def _handles_signal(frame: FrameType) -> bool:
    """Whether a function was given the number of a signal and, next to it, the frame that it was called from."""
    code = frame.f_code
    given = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount]]
    if code.co_flags & _VARIABLE_ARGUMENTS:
        given += frame.f_locals.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ())
    return any(
        isinstance(number, int) and 0 < number < signal.NSIG and interrupted is not None and interrupted is frame.f_back
        for number, interrupted in itertools.pairwise(given)
    )


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


def start(thread: threading.Thread) -> None:
    """Start a thread: `Thread.start`, interrupted, may raise something else than the handler did."""
    with Uninterrupted():
        thread.start()
