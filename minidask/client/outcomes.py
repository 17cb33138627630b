"""The outcomes that a task may have for its client: it returned, it raised, or it is lost. Pure."""

from __future__ import annotations

from typing import NamedTuple

from minidask.errors import (
    KilledWorker,
    MinidaskError,
    NoWorkersError,
    SchedulerLost,
    SerializationError,
    TaskTimeout,
    VersionMismatch,
)
from minidask.host.texts import printable
from minidask.wire import messages as m

_LOSSES: dict[str, type[MinidaskError]] = {
    m.Reason.TIMEOUT: TaskTimeout,
    m.Reason.KILLED: KilledWorker,
    m.Reason.NO_WORKERS: NoWorkersError,
    m.Reason.SERIALIZATION: SerializationError,
    m.Reason.WORKER_LEFT: SchedulerLost,
    m.Reason.VERSION: VersionMismatch,
    m.Reason.NO_PARENT: SchedulerLost,
    m.Reason.CANCELLED: MinidaskError,
    m.Reason.FULL: MinidaskError,
    m.Reason.INTERNAL: MinidaskError,
}
"""The exception by the scheduler's reason. A later scheduler may have more reasons: those give a `MinidaskError`."""


class Returned(NamedTuple):
    """The task returned; the value is in `payload`."""

    payload: m.Payload
    duration: float
    worker: str


class Raised(NamedTuple):
    """The task raised; exception and notes are in `payload`, the text for people in `traceback`."""

    payload: m.Payload
    traceback: str
    worker: str


class Lost(NamedTuple):
    """The task has no outcome of its own."""

    error: MinidaskError


Outcome = Returned | Raised | Lost


def outcome_of(message: m.TaskDone | m.TaskRaised | m.TaskLost) -> Outcome:
    """Return the outcome that a message of the scheduler has for a task."""
    match message:
        case m.TaskDone(_, duration, worker, payload):
            return Returned(payload, duration, worker)
        case m.TaskRaised(_, _, worker, traceback, payload):
            return Raised(payload, traceback, worker)
        case m.TaskLost(_, reason, text):
            return Lost(_LOSSES.get(reason, MinidaskError)(printable(text, keep="\n")))
