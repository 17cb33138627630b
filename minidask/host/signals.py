"""Signal handlers of the user's program, which may raise between any two steps of ours in the main thread.

Ctrl-C is one: Python's own handler raises KeyboardInterrupt. A time limit by `signal.alarm` is another, and its handler
may raise anything. CPython runs handlers in the main thread, between two bytecodes, so our code there can be cut at
any point:

    read bytes from the socket   ─┐
    decode                        │ a handler that raises here loses bytes that were read:
    settle the future             │ the stream is out of step, and results are lost
    wake who waits for it        ─┘

There are three answers, by what a cut would break:

1. *Nothing would break.* Most code is written so: each step may be the last. A lock is taken by a `with` that is one
   step, and what one sender has begun, the next one continues (`client/outbox.py`).
2. *Bytes or locks would be lost*: `Uninterrupted`. In its block, each handler is replaced by one that only notes the
   signal. The end of the block puts the handlers back, and runs those whose signals have come.

       with Uninterrupted():     read ─ decode ─ settle ─┐ handlers are back
               SIGALRM ─► noted ·························└► the user's handler runs, and may raise

   It replaces all handlers, not only Ctrl-C's: a time limit that raised in the midst of settling lost results in 9 of
   10 runs. Masks of the kernel do not help, as another thread may take the signal, and Python then runs its handler in
   the main thread all the same. To look through 64 signals takes 6 µs by the C functions below `signal`; the enums of
   `signal` itself cost twenty times that.
3. *An error is translated.* Code such as `except OSError: return ""` would swallow what a handler has raised, as that
   may be an OSError too: TimeoutError is one. So it first calls `pass_on(error)`, which raises the error again if a
   handler has raised it, or uses `suppress` from here.

What a handler has raised is known by its traceback: it holds a frame that was given a signal's number and the frame
just below it. So nothing is registered, normal paths cost nothing, and handlers that take themselves away before they
raise are known too.
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


def handler_of(number: int) -> object:
    """What handles a signal, as `signal.getsignal` returns it."""
    return _signal.getsignal(number)


def raised_by_handler(error: BaseException | None) -> bool:
    """Whether a signal handler that is a Python function has raised this error. False for None."""
    trace = error.__traceback__ if error is not None else None
    while trace is not None:
        if _handles_signal(trace.tb_frame):
            return True
        trace = trace.tb_next
    return False


def pass_on(error: BaseException) -> None:
    """Raise an error again if a signal handler has raised it; else do nothing.

    Raises:
        BaseException: the error itself.
    """
    if raised_by_handler(error):
        raise error


class suppress(contextlib.suppress):
    """`contextlib.suppress` that lets through what a signal handler has raised."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return super().__exit__(kind, error, trace) and not raised_by_handler(error)


def _handles_signal(frame: FrameType) -> bool:
    """Whether a frame is that of a signal handler: its arguments are a signal's number and the frame just below."""
    code = frame.f_code
    given = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount]]
    if code.co_flags & _VARIABLE_ARGUMENTS:
        given += frame.f_locals.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ())
    return any(
        isinstance(number, int) and 0 < number < signal.NSIG and interrupted is not None and interrupted is frame.f_back
        for number, interrupted in itertools.pairwise(given)
    )


class Uninterrupted:
    """Postpones signal handlers until the end of its block, where they run and may raise. Only in the main thread.

    In other threads it does nothing, as Python runs no handlers there.

    Args:
        wake: called when a signal comes, so that a wait in the block can end. None if the block does not wait.
    """

    __slots__ = ("_handlers", "_passing", "_pending", "_replaced", "_wake")

    def __init__(self, wake: Callable[[], None] | None = None) -> None:
        self._wake = wake
        self._pending: collections.deque[int] = collections.deque()
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
            except BaseException:  # a handler that was not replaced yet has raised
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._put_back()
        finally:
            self.check()

    def _put_back(self) -> None:
        """Put all handlers of the user back, even if one that is back already raises meanwhile."""
        try:
            while self._replaced:
                number = self._replaced[-1]
                if _signal.getsignal(number) == self._on_signal:  # otherwise code in the block has set another handler
                    _signal.signal(number, self._handlers[number])
                self._replaced.pop()
            self._passing = True  # code may have saved our handler as the former one, and put it back later
        finally:
            if self._replaced:
                self._put_back()

    def run_interruptible(self, code: Callable[[], None]) -> None:
        """Call a user's code inside the block. Handlers run at once meanwhile, and may interrupt it."""
        try:
            self._passing = True
            self.check()
            code()
        finally:
            self._passing = False

    def check(self) -> None:
        """Run the handlers of all signals that have come in the block so far. A handler may raise."""
        if self._pending:
            number = self._pending.popleft()
            try:
                self._handlers[number](number, sys._getframe())
            finally:
                self.check()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._passing:
            self._handlers[number](number, frame)
        else:
            self._pending.append(number)
            if self._wake is not None:
                self._wake()


def start(thread: threading.Thread) -> None:
    """Start a thread, with signal handlers postponed: interrupted, `Thread.start` could raise an error of its own."""
    with Uninterrupted():
        thread.start()
