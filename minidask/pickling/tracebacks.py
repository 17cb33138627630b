"""A task's error as people read it: with the caller's own lines of code, and which call it was.

    slot: the traceback as text, without source for code that came by value ─► client: adds the lines, which it has

The worker must not look for those lines itself: a file of that name on its machine may be another one.
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
    """How pickle is to make a code object: as cloudpickle does, but with the name of its file.

    cloudpickle leaves the name out, so that equal functions of two files have equal pickles. A traceback without it
    tells nobody where to look.
    """
    make, arguments, *more = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return make, tuple(code.co_filename if part == "<dynamic-code>" else part for part in arguments), *more


# --- in the slot ---


def remote_text(error: BaseException, is_ours: Callable[[FrameType], bool]) -> str:
    """The traceback of a task's error, from the task's own frames on.

    Args:
        is_ours: whether a frame is one of those around the task, which tell the user nothing.
    """
    trace = error.__traceback__
    while trace is not None and is_ours(trace.tb_frame):
        trace = trace.tb_next
    whole = traceback.TracebackException(type(error), error, trace, lookup_lines=False)
    for told, _, its_trace in _chain(whole, error, trace):
        told.stack[:] = _without_callers_lines(told.stack, its_trace)
    return "".join(whole.format())[-MAX_TRACEBACK:]


def _chain(
    whole: traceback.TracebackException, error: BaseException, trace: TracebackType | None
) -> Iterator[tuple[traceback.TracebackException, BaseException, TracebackType | None]]:
    """An error and all that belong to it: its causes, contexts, and the parts of groups."""
    pairs = [(whole, error, trace)]
    for told, raised, its_trace in pairs:
        yield told, raised, its_trace
        for other, its_error in ((told.__cause__, raised.__cause__), (told.__context__, raised.__context__)):
            if other is not None and its_error is not None:
                pairs.append((other, its_error, its_error.__traceback__))
        for other, its_error in zip(told.exceptions or (), getattr(raised, "exceptions", ()), strict=False):
            pairs.append((other, its_error, its_error.__traceback__))


def _without_callers_lines(
    stack: traceback.StackSummary, trace: TracebackType | None
) -> Iterator[traceback.FrameSummary]:
    for summary, (frame, _) in zip(list(stack), traceback.walk_tb(trace), strict=False):
        if _came_by_value(frame):
            yield traceback.FrameSummary(summary.filename, summary.lineno, summary.name, lookup_line=False, line="")
        else:
            yield summary


def _came_by_value(frame: FrameType) -> bool:
    """Whether a frame's function is no module's of this process: cloudpickle gives those a namespace of their own."""
    module = sys.modules.get(frame.f_globals.get("__name__", ""))
    return module is None or module.__dict__ is not frame.f_globals


def note(name: str, call: str, worker: str) -> str:
    """One line on an exception: which task raised it, and where.

    Args:
        name: of the task.
        call: the call that raised, as `short_call` tells it; empty if it did not get so far.
        worker: the name of the worker.
    """
    try:
        folder = os.getcwd()
    except OSError:
        folder = "a folder that is gone"
    what = f"{name!r}: {call}" if call and not call.startswith(f"{name}(") else call or repr(name)
    return f"task {what}, on worker {worker} of {socket.gethostname()}, process {os.getpid()}, in {folder}"


class _Short(reprlib.Repr):
    """Arguments in short; an array or a frame is told by its type and shape."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxother, self.maxstring = 3, 80, 80

    def repr1(self, x: Any, level: int) -> str:
        shape = getattr(x, "shape", None)
        if type(shape) is tuple and shape:
            return f"<{type(x).__name__} of shape {shape}>"
        return super().repr1(x, level)


def short_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """A call as one would write it, each argument cut to some 80 characters."""
    name = name_of(function)
    short = _Short().repr
    try:
        told = [*map(short, args), *(f"{key}={short(value)}" for key, value in kwargs.items())]
    except Exception as error:  # noqa: BLE001 - a user's __repr__ or attribute, beside the error that is to be told
        told = [f"arguments whose repr raises {type(error).__name__}"]
    return f"{name}({', '.join(told)})".replace("\n", " ")


# --- in the client ---


def with_source(text: str) -> str:
    """A remote traceback's text, with the source lines that are missing there and known here."""
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
