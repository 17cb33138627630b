"""Notices when child processes end, without waiting for them.

The kernel sends SIGCHLD when a child ends. A look twice a second finds the ends that came without a signal: before
there was a handler, or while the signal was blocked. A pidfd would cost a descriptor for each process, and a sandbox
may refuse it.

A child that has ended keeps its process number until it is waited for. Files are named by that number, so the caller
waits only when it has dealt with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable

LOOK_SECONDS = 0.5


class _Children:
    """The child processes that one event loop watches."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._watched: dict[subprocess.Popen[bytes], Callable[[], None]] = {}
        with contextlib.suppress(ValueError, RuntimeError):  # a loop outside the main thread has no signals
            loop.add_signal_handler(signal.SIGCHLD, self._look)
        loop.call_soon(self._look_again)

    def watch(self, process: subprocess.Popen[bytes], on_end: Callable[[], None]) -> None:
        self._watched[process] = on_end

    def _look_again(self) -> None:
        self._look()
        self.loop.call_later(LOOK_SECONDS, self._look_again)

    def _look(self) -> None:
        for process in [process for process in self._watched if _has_ended(process)]:
            self._watched.pop(process)()


_children: _Children | None = None


def watch(process: subprocess.Popen[bytes], on_end: Callable[[], None]) -> None:
    """Have `on_end()` called once, in the running loop, when a child has ended. The caller must still wait for it."""
    global _children
    loop = asyncio.get_running_loop()
    if _children is None or _children.loop is not loop:
        _children = _Children(loop)
    _children.watch(process, on_end)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    if not hasattr(os, "waitid"):  # macOS
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # the kernel has waited for it: our parent has left us SIGCHLD ignored
        return True
