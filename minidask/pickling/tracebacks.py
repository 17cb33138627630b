"""A task's error as people read it: with the caller's own lines of code, and which call it was.

A traceback cannot be pickled, so the slot sends it as text. For code that was sent by value the slot has no source. It
must not look for the file either: a file of that name on its machine may be another one. So both ends write the text:

    slot: the traceback as text, without source for code that was sent by value ─► client: adds the lines
"""

from __future__ import annotations

import linecache
import os
import re
import reprlib
import socket
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

import cloudpickle

from minidask.pickling.functions import name_of

MAX_TRACEBACK = 64 * 1024
_FRAME = re.compile(r'(?P<indent>[ |]*)File "(?P<file>.*)", line (?P<line>\d+), in ')


# --- in the pickle ---


def code_with_its_file(code: types.CodeType) -> Any:
    """Reduce a code object as cloudpickle does, but with the name of its file.

    cloudpickle leaves the name out, so that equal functions of two files have equal pickles. Without it, a traceback
    does not say where to look.
    """
    make, arguments, *more = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return make, tuple(code.co_filename if value == "<dynamic-code>" else value for value in arguments), *more


# --- in the slot ---


def remote_text(error: BaseException, is_ours: Callable[[FrameType], bool]) -> str:
    """Return the traceback of a task's error as text, from the task's own frames on, at most `MAX_TRACEBACK` long.

    Args:
        is_ours: whether a frame is one of those around the task, which do not concern the user.
    """
    trace = error.__traceback__
    while trace is not None and is_ours(trace.tb_frame):
        trace = trace.tb_next
    whole = traceback.TracebackException(type(error), error, trace, lookup_lines=False)
    for summary, _, its_trace in _chain(whole, error, trace):
        summary.stack[:] = _without_callers_lines(summary.stack, its_trace)
    return "".join(whole.format())[-MAX_TRACEBACK:]


def _chain(
    whole: traceback.TracebackException, error: BaseException, trace: TracebackType | None
) -> Iterator[tuple[traceback.TracebackException, BaseException, TracebackType | None]]:
    """An error and all errors that it refers to: causes, contexts, and the members of groups."""
    pairs = [(whole, error, trace)]
    for summary, raised, its_trace in pairs:
        yield summary, raised, its_trace
        for other, its_error in ((summary.__cause__, raised.__cause__), (summary.__context__, raised.__context__)):
            if other is not None and its_error is not None:
                pairs.append((other, its_error, its_error.__traceback__))
        for other, its_error in zip(summary.exceptions or (), getattr(raised, "exceptions", ()), strict=False):
            pairs.append((other, its_error, its_error.__traceback__))


def _without_callers_lines(
    stack: traceback.StackSummary, trace: TracebackType | None
) -> Iterator[traceback.FrameSummary]:
    for summary, (frame, _) in zip(list(stack), traceback.walk_tb(trace), strict=False):
        if _is_by_value(frame):
            yield traceback.FrameSummary(summary.filename, summary.lineno, summary.name, lookup_line=False, line="")
        else:
            yield summary


def _is_by_value(frame: FrameType) -> bool:
    """Whether a frame's function was sent by value: its globals are those of no module of this process."""
    module = sys.modules.get(frame.f_globals.get("__name__", ""))
    return module is None or module.__dict__ is not frame.f_globals


def note(name: str, call: str, worker: str, tries: int = 1) -> str:
    """Return one line for an exception's notes: which task raised it, and where.

    Args:
        name: the name of the task.
        call: the call that raised, as `short_call` writes it; empty if no call had begun.
        worker: the name of the worker.
        tries: how many times the call was tried there.
    """
    try:
        folder = os.getcwd()
    except OSError:
        folder = "a folder that is gone"
    what = f"{name!r}: {call}" if call and not call.startswith(f"{name}(") else call or repr(name)
    tried = f", in try {tries} of {tries}" if tries > 1 else ""
    return f"task {what}, on worker {worker} of {socket.gethostname()}, process {os.getpid()}, in {folder}{tried}"


class _Short(reprlib.Repr):
    """Writes arguments in short; for an array or a data frame its type and shape."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxother, self.maxstring = 3, 80, 80

    def repr1(self, x: Any, level: int) -> str:
        shape = getattr(x, "shape", None)
        if type(shape) is tuple and shape:
            return f"<{type(x).__name__} of shape {shape}>"
        return super().repr1(x, level)


def short_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return a call as Python code, each argument cut to some 80 characters."""
    name = name_of(function)
    short = _Short().repr
    try:
        written = [*map(short, args), *(f"{key}={short(value)}" for key, value in kwargs.items())]
    except Exception as error:  # noqa: BLE001 - a user's __repr__ must not hide the error of the task
        written = [f"arguments whose repr raises {type(error).__name__}"]
    return f"{name}({', '.join(written)})".replace("\n", " ")


# --- in the client ---


def with_source(text: str) -> str:
    """Return a remote traceback with the source lines that are missing there, and that this process has."""
    lines = text.split("\n")
    whole = []
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        whole.append(line)
        frame = _FRAME.match(line)
        if frame is not None and not after.startswith(frame["indent"] + "  "):
            source = linecache.getline(frame["file"], int(frame["line"])).strip()
            if source:
                whole.append(f"{frame['indent']}  {source}")
    return "\n".join(whole)
