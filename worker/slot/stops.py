"""The calls that run in a slot, one on top of the other, in one thread or several of a task; and how each is stopped.

pipe: names ─┐
SIGINT ──────┴─► interrupt ─► KeyboardInterrupt, in the thread that runs the named call
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import threading
from dataclasses import dataclass
from types import FrameType

STOP = struct.Struct("<QQ")
"""A task's number and attempt, in the pipe for stops."""
IMPORT = "<frozen importlib._bootstrap>"


@dataclass(slots=True, eq=False)
class RunningCall:
    """An attempt of a task: its `name` is number and attempt, its `thread` that which runs it.

    Attributes:
        before: the name of what the thread worked for until then.
        interruptible: whether a stop may interrupt it now.
        stop_came: whether one has come while it was not.
        cut_import: whether one came in the middle of an import.
    """

    name: list[int]
    thread: int
    before: list[int]
    interruptible: bool = False
    stop_came: bool = False
    cut_import: bool = False


class RunningCalls:
    """See the module's docstring.

    Args:
        stops: the pipe that names calls to be stopped; None where none are.
    """

    def __init__(self, stops: int | None) -> None:
        self._stops = stops
        self._surplus = 0  # names that came with the signal of others
        self._running: list[RunningCall] = []  # in the order in which they began
        self._this_thread = threading.local()

    def begin(self, number: int, attempt: int) -> RunningCall:
        """A call begins, in this thread, on top of what this thread may run already."""
        name = [number, attempt]
        call = RunningCall(name, threading.get_ident(), self.work_for(name))
        self._running.append(call)
        return call

    def end(self, call: RunningCall) -> None:
        """It is over; the thread goes on with what it did before."""
        self._running.remove(call)
        self.work_for(call.before)

    def work_for(self, name: list[int]) -> list[int]:
        """From now on this thread works for a call; returns the name of the one before."""
        before: list[int] = getattr(self._this_thread, "name", [])
        self._this_thread.name = name
        return before

    @property
    def own(self) -> list[int]:
        """The name of the call that this thread works for: the innermost, if it is not known or over; or empty."""
        name: list[int] = getattr(self._this_thread, "name", [])
        if name and self.runs(name):
            return name
        return self._running[-1].name if self._running else []

    def runs(self, name: list[int]) -> bool:
        """Whether a call goes on."""
        return any(call.name == name for call in self._running)

    def _top(self, thread: int) -> RunningCall | None:
        return next((call for call in reversed(self._running) if call.thread == thread), None)

    # --- stops ---

    def put_off_stops(self) -> RunningCall | None:
        """Have no stop interrupt this thread until `heed_stops` gets what this returns; None: none would."""
        call = self._top(threading.get_ident())
        if call is None or not call.interruptible:
            return None
        call.stop_came = False
        call.interruptible = False
        return call

    def heed_stops(self, call: RunningCall) -> None:
        """A stop that has come meanwhile interrupts now.

        Raises:
            KeyboardInterrupt: one has.
        """
        call.interruptible = True
        if call.stop_came:
            call.stop_came = False
            raise KeyboardInterrupt

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT, in the main thread: interrupt the calls that are named, or its own if none is."""
        named = self._named()
        if named is None:
            return
        here = threading.get_ident()
        threads = {call.thread for call in self._running if call.name in named} if named else {here}
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
                call.stop_came = True
            return False
        while frame is not None and not call.cut_import:
            call.cut_import = frame.f_code.co_filename == IMPORT
            frame = frame.f_back
        return True

    def _named(self) -> list[list[int]] | None:
        """The calls that a signal is for: empty if it is from somebody who names none, None if it is out of date."""
        named = []
        with contextlib.suppress(BlockingIOError):
            while self._stops is not None and (data := os.read(self._stops, STOP.size)):
                named.append(list(STOP.unpack(data)))
        if named:
            self._surplus += len(named) - 1
        elif self._surplus:
            self._surplus -= 1
            return None
        return named


def _raise_in(thread: int) -> None:
    """Raise KeyboardInterrupt in another thread, when it next runs Python code."""
    import ctypes  # noqa: PLC0415 - hardly ever needed

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))
