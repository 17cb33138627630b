"""What a slot reports of a call that raised: the traceback as text, and the exception with notes, pickled."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from minidask.errors import SerializationError, TaskError
from minidask.pickling import tracebacks
from minidask.pickling.sharing import dumps
from minidask.task import batch
from minidask.task.missing import explained
from minidask.task.session import SessionInfo
from minidask.wire.messages import Failed, Run


def failed(
    error: BaseException, run: Run, seconds: float, session: SessionInfo | None, around: Sequence[str], tries: int
) -> Failed:
    """The message for a call that raised.

    Args:
        error: what it raised, or what unpickling it did.
        run: the call.
        seconds: how long it ran.
        session: of the caller; None if it could not be taken over.
        around: files of the slot's own frames, which the traceback does not show.
        tries: how many times the call was tried here.
    """
    worker = os.environ.get("MINIDASK_WORKER", "local")

    def is_around(frame: FrameType) -> bool:
        return frame.f_code.co_filename in around

    call = _call_that_raised(error, around)
    if session is not None:
        error = explained(error, run.name, f"{worker!r} on {socket.gethostname()}", session)
    text = tracebacks.remote_text(error, is_around)
    notes = [*getattr(error, "__notes__", ()), tracebacks.note(run.name, call, worker, tries)]
    try:
        payload = dumps((_presentable(error, run.name), notes), "the exception")
    except (SerializationError, SystemExit):  # the latter is raised by its pickling
        payload = dumps((None, notes), "the notes")  # the text of the traceback tells the rest
    return Failed(run.task, run.attempt, seconds, text, payload)


def _presentable(error: BaseException, name: str) -> BaseException:
    """An exception that can be raised in the caller without ending the program."""
    if isinstance(error, Exception):
        return error
    did = f"called sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"raised {type(error).__name__}"
    return TaskError(f"task {name!r} {did}, which ends the task and not the program that called it")


def _call_that_raised(error: BaseException, around: Sequence[str]) -> str:
    """The user's call that raised, in short; an empty text if the task did not get so far."""
    call, trace = "", error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in around:
        seen = trace.tb_frame.f_locals
        if "function" in seen and "kwargs" in seen and seen["function"] is not batch.run_batch:
            call = tracebacks.short_call(seen["function"], seen["args"], seen["kwargs"])
        trace = trace.tb_next
    return call


def end_fork(error: BaseException | None) -> NoReturn:
    """End a process that a task has forked and that has returned from the task: the slot's socket is not its own."""
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(error)
    flush_output()
    os._exit(code & 0xFF)


def flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed or replaced by the task: its business
            stream.flush()
