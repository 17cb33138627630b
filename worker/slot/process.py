"""The first steps of a slot process; `minidask.worker.launch` tells how it is started, and why so."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
from typing import Any

from minidask.task.context import SlotConfig

from .loop import Slot
from .reads import OutputCount

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
        arguments: the file descriptors of the socket, of the pipe for stops and of the count of reads, the daemon's
            process id, and the fields of `SlotConfig`.
    """
    sock, stops, counted = socket.socket(fileno=int(arguments[0])), int(arguments[1]), int(arguments[2])
    for descriptor in (sock.fileno(), stops):
        os.set_inheritable(descriptor, False)
    os.set_blocking(stops, False)
    reads = OutputCount(counted)
    os.close(counted)
    _die_with(int(arguments[3]))
    _run_as_batch()
    _go_first()
    faulthandler.enable()  # a crash in compiled code so tells where, as loky's do
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, write_through=False, errors="backslashreplace")  # also if PYTHONUNBUFFERED
    Slot(sock, SlotConfig(*arguments[4:]), stops, reads).serve()
