"""Tells what a signal's handler has raised from what the code did that it came into.

A handler of the caller's, an alarm that is a time limit above all, may raise between any two steps of ours. It is no
error of that step: whoever catches errors, to say them in other words or to do without, asks here first.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
from types import FrameType, TracebackType

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
