"""The first steps of a slot process; `minidask.worker.launch` tells how it is started, and why so."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import signal
import socket
import sys
from typing import Any

from minidask.task.context import SlotConfig

from .loop import Slot
from .reads import OutputCount
from .recorder import Recorder

HALF_OF_ALL_MEMORY = 500
"""Added to the kernel's score of a process: it goes as if it used so much more than it does."""
MOST_LIKELY = 1000


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the worker daemon ends, whatever a task is doing (Linux)."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the worker daemon is gone")


def _end_children_with(life: int) -> None:
    """Have the kernel send SIGTERM to this process group when the worker daemon has ended (Linux).

    No SIGKILL: a resource tracker ignores this signal, and cleans up. The pipe is opened anew, since it is the opened
    file that tells whom the kernel has to send a signal to.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or there is no /proc
        own = os.open(f"/proc/self/fd/{life}", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGTERM)
        fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgid(0))
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.close(life)


def _go_first() -> None:
    """Have the kernel kill this process, and what it starts, before others when memory runs out (Linux).

    That costs one attempt. The end of the worker daemon or of the user's program would cost far more.
    """
    with contextlib.suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+") as file:
        score = min(MOST_LIKELY, int(file.read()) + HALF_OF_ALL_MEMORY)
        file.seek(0)
        file.write(str(score))


def _run_as_batch() -> None:
    """Do not preempt other processes when a call arrives (Linux). The share of the processor stays the same."""
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # a sandbox may forbid it: it only saves time
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main(arguments: list[str]) -> None:
    """Run a slot in this process until its worker daemon closes the socket.

    Args:
        arguments: the file descriptors of the socket, of the pipe for stops, of the shared memory and of the life
            pipe, the daemon's process id, and the fields of `SlotConfig`.
    """
    sock = socket.socket(fileno=int(arguments[0]))
    stops, shared, life = map(int, arguments[1:4])
    for descriptor in (sock.fileno(), stops):
        os.set_inheritable(descriptor, False)
    os.set_blocking(stops, False)
    reads, recorder = OutputCount(shared), Recorder(shared)
    os.close(shared)
    _end_children_with(life)
    _die_with(int(arguments[4]))
    _run_as_batch()
    _go_first()
    faulthandler.enable()  # a crash in compiled code so tells where, as loky's do
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, write_through=False, errors="backslashreplace")  # also if PYTHONUNBUFFERED
    Slot(sock, SlotConfig(*arguments[5:]), stops, reads, recorder).serve()
