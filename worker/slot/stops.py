"""The calls that run in a slot, and how one of them is stopped.

To stop a call means to raise KeyboardInterrupt in it, as Ctrl-C would, so that it may clean up. If that does not help
within 0.3 seconds, the daemon kills the process. Three things make it hard:

1. *A signal carries no name.* Between the daemon's decision and the signal's arrival, the call may end and another one
   begin, or the call below it resume. So the daemon first writes the attempt into a pipe, and then sends SIGINT:

       daemon          write(task, attempt) ─► stop pipe ─┐
                       kill(SIGINT) ──────────────────────┴─► interrupt() in the main thread
                                                              │ read all attempts from the pipe
                                      does one of them run? ──┴─► interrupt it; else nothing happens

   Signals of one kind merge while they are pending, pipes do not. A handler may therefore read two attempts at its
   first signal, and none at its second. `_surplus` counts the attempts that were read ahead: with that many signals an
   empty pipe means nothing. Any other signal with an empty pipe comes from somebody else, a terminal or a plain
   `kill -INT`, and is for the call in the main thread.

2. *Python runs signal handlers in the main thread only.* With leapfrogging, the call may run in another thread of a
   task, one that waits. `PyThreadState_SetAsyncExc` raises an exception there, when that thread next runs Python code.
   A thread that is inside a C function notices only afterwards; the kill is for that.

3. *An exception between any two steps would tear our own code*: half a message written, a result lost. So a call is
   `interruptible` only while the task's own code runs. The slot's own code clears that flag, and the handler then only
   notes the stop in `stop_pending`. A section inside the task's code, such as sending a message, uses `put_off_stops`,
   and `heed_stops` raises afterwards what has come meanwhile.

       begin       loads, function, dumps      end
       ─────┬──────────────────────────────┬──────
      not   │        interruptible         │   not        time ─►
            │         ├ send ┤             │
            │         put off, then raised │

One thing cannot be mended: an interrupted import leaves half a module in `sys.modules`, and locks of the import system.
`_may_interrupt` looks for the import system in the frames of the call, and notes it in `cut_import`. The slot then ends
itself (`Slot._called`), and the daemon starts a fresh one.

A task may take SIGINT for itself. Its handler stays until the task ends: the slot then takes the signal back.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

STOP = struct.Struct("<QQ")
"""A task's number and attempt, in the pipe for stops."""
IMPORT = "<frozen importlib._bootstrap>"


@dataclass(slots=True, eq=False)
class RunningCall:
    """One attempt of a task, while it runs.

    Attributes:
        attempt: the task's number, and which attempt it is.
        thread: identifies the thread that runs the call.
        before: the attempt that the thread worked for until then; empty for none.
        interruptible: whether a stop may raise in the call now.
        stop_pending: whether a stop has come while the call was not interruptible.
        cut_import: whether a stop has interrupted an import.
        stopped: whether a stop was raised in the call.
        cut_off: whether tasks that it has submitted were lost with their scheduler.
    """

    attempt: list[int]
    thread: int
    before: list[int]
    interruptible: bool = False
    stop_pending: bool = False
    cut_import: bool = False
    stopped: bool = False
    cut_off: bool = False


class RunningCalls:
    """All calls that run in one slot, on top of one another, in one thread or several.

    Args:
        stops: descriptor of the stop pipe, which does not block; None for a slot in a thread, which cannot be stopped.
    """

    def __init__(self, stops: int | None) -> None:
        self._stops = stops
        self._surplus = 0  # attempts that were read with the signal of others
        self._running: list[RunningCall] = []  # in the order in which they began
        self._this_thread = threading.local()

    def begin(self, task: int, attempt: int) -> RunningCall:
        """Note that a call begins in this thread, on top of any that the thread runs already."""
        own = [task, attempt]
        call = RunningCall(own, threading.get_ident(), self.work_for(own))
        self._running.append(call)
        return call

    def end(self, call: RunningCall) -> None:
        """Note that a call has ended. Its thread works for the attempt before again."""
        self._running.remove(call)
        self.work_for(call.before)

    def work_for(self, attempt: list[int]) -> list[int]:
        """Have this thread work for an attempt from now on. Returns the attempt before; empty if there was none."""
        before: list[int] = getattr(self._this_thread, "attempt", [])
        self._this_thread.attempt = attempt
        return before

    @property
    def current(self) -> list[int]:
        """The attempt that this thread works for; the innermost one for a thread without any; empty between tasks."""
        attempt: list[int] = getattr(self._this_thread, "attempt", [])
        if attempt and self.runs(attempt):
            return attempt
        return self._running[-1].attempt if self._running else []

    def runs(self, attempt: list[int]) -> bool:
        """Whether an attempt still runs here."""
        return any(call.attempt == attempt for call in self._running)

    def cut_off(self, attempt: Sequence[int]) -> None:
        """Note that an attempt has lost its tasks with their scheduler; nothing happens if it runs no more."""
        for call in list(self._running):
            call.cut_off = call.cut_off or call.attempt == attempt

    def _top(self, thread: int) -> RunningCall | None:
        return next((call for call in reversed(self._running) if call.thread == thread), None)

    # --- stops ---

    def put_off_stops(self) -> RunningCall | None:
        """Let no stop raise in this thread until `heed_stops` is called with the result; None if none could raise."""
        call = self._top(threading.get_ident())
        if call is None or not call.interruptible:
            return None
        call.stop_pending = False
        call.interruptible = False
        return call

    def heed_stops(self, call: RunningCall) -> None:
        """End what `put_off_stops` has begun.

        Raises:
            KeyboardInterrupt: a stop has come meanwhile.
        """
        call.interruptible = True
        if call.stop_pending:
            call.stop_pending = False
            call.stopped = True
            raise KeyboardInterrupt

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT, in the main thread: raise in the calls that the pipe names, or here if it names none.

        Raises:
            KeyboardInterrupt: the call to be stopped runs in this thread.
        """
        attempts = self._read_stops()
        if attempts is None:
            return
        here = threading.get_ident()
        threads = {call.thread for call in self._running if call.attempt in attempts} if attempts else {here}
        frames = sys._current_frames()
        for thread in threads - {here}:
            if self._may_interrupt(thread, frames.get(thread)):
                _raise_in(thread)
        if here in threads and self._may_interrupt(here, frame):
            raise KeyboardInterrupt

    def _may_interrupt(self, thread: int, frame: FrameType | None) -> bool:
        call = self._top(thread)
        if call is None or not call.interruptible:
            if call is not None:
                call.stop_pending = True
            return False
        while frame is not None and not call.cut_import:
            call.cut_import = frame.f_code.co_filename == IMPORT
            frame = frame.f_back
        call.stopped = True
        return True

    def _read_stops(self) -> list[list[int]] | None:
        """Attempts read from the stop pipe. [] for a signal without any; None if this signal's was read before."""
        attempts = []
        with contextlib.suppress(BlockingIOError):
            while self._stops is not None and (data := os.read(self._stops, STOP.size)):
                attempts.append(list(STOP.unpack(data)))
        if attempts:
            self._surplus += len(attempts) - 1
        elif self._surplus:
            self._surplus -= 1
            return None
        return attempts


def _raise_in(thread: int) -> None:
    """Have KeyboardInterrupt raised in another thread when that next runs Python code."""
    import ctypes  # noqa: PLC0415 - hardly ever needed

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))
