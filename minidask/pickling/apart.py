"""Runs a call in this thread as a slot would: pickled, unpickled, and with objects of its own.

A task may run the calls of its own `Parallel` itself (`minidask/backend/nested_run.py`). They must not see what it does
with its arguments, nor it what they do.
"""

from __future__ import annotations

from typing import Any

from minidask.errors import SerializationError
from minidask.pickling.byvalue import this_thread
from minidask.pickling.payload import SlotBlobs, TaskBlobs, loads
from minidask.pickling.sharing import dumps
from minidask.wire.frames import Buffer
from minidask.wire.large import LARGE_BYTES
from minidask.wire.messages import Payload


def run_apart(payload: Payload) -> Any:
    """Run a pickled call in this thread as if it had been sent to a slot: it changes no object of this task.

    Returns:
        The call's result, as it would have come from the slot.

    Raises:
        SerializationError: the call cannot be unpickled, or its result cannot be pickled.
        Exception: the error that the call raises.
    """
    around: TaskBlobs | None = this_thread.task
    task = (around.table if around is not None else SlotBlobs()).begin([], payload)
    raised: Exception | None = None
    try:
        function, args = loads([payload[0], *map(_own_copy, payload[1:])], "a nested call")
        try:
            result = function(*args)
        except Exception as error:  # noqa: BLE001 - it is raised below, as the caller knows it
            result, raised = error, error
        result = dumps(result, f"the result of a nested call, of type {type(result).__name__},")
    except SerializationError:
        if raised is None:
            raise
        raise raised from None
    finally:
        task.end()
    result = loads(result, "the result of a nested call")
    if raised is not None:
        raise result.with_traceback(raised.__traceback__)
    return result


def _own_copy(buffer: Buffer) -> Buffer:
    """A buffer as a task sees one that was sent: a copy of its own, or read-only if it is large."""
    return bytearray(buffer) if len(buffer) < LARGE_BYTES else memoryview(buffer).toreadonly()
