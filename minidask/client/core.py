"""What a client waits for: a pure table of pending tasks, without sockets or threads of its own.

Outcomes come back as the scheduler's messages; `outcome_of` says what each means, still pickled.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from minidask.errors import (
    KilledWorker,
    MinidaskError,
    NoWorkersError,
    SchedulerLost,
    SerializationError,
    TaskTimeout,
    VersionMismatch,
)
from minidask.wire.messages import Payload, Reason, TaskDone, TaskLost, TaskRaised

FutureT = TypeVar("FutureT")

_LOSSES: dict[str, type[MinidaskError]] = {
    Reason.TIMEOUT: TaskTimeout,
    Reason.KILLED: KilledWorker,
    Reason.NO_WORKERS: NoWorkersError,
    Reason.SERIALIZATION: SerializationError,
    Reason.WORKER_LEFT: SchedulerLost,
    Reason.VERSION: VersionMismatch,
    Reason.CANCELLED: MinidaskError,
    Reason.INTERNAL: MinidaskError,
}
"""By reason; the scheduler may be a later one, with more reasons."""


class Returned(NamedTuple):
    """The task returned; the value is in `payload`."""

    payload: Payload
    duration: float
    worker: str


class Raised(NamedTuple):
    """The task raised; exception and notes are in `payload`, the text for people in `traceback`."""

    payload: Payload
    traceback: str
    worker: str


class Lost(NamedTuple):
    """The task has no outcome of its own."""

    error: MinidaskError


Outcome = Returned | Raised | Lost


def outcome_of(message: TaskDone | TaskRaised | TaskLost) -> Outcome:
    """What the scheduler's message says of a task."""
    match message:
        case TaskDone(_, duration, worker, payload):
            return Returned(payload, duration, worker)
        case TaskRaised(_, _, worker, traceback, payload):
            return Raised(payload, traceback, worker)
        case TaskLost(_, reason, text):
            return Lost(_LOSSES.get(reason, MinidaskError)(text))


class _Ref(weakref.ref[FutureT]):
    """A reference that knows its task: as the standard `KeyedRef`, and made in a third of the time."""

    __slots__ = ("number",)
    number: int


class PendingTable(Generic[FutureT]):
    """Which future waits for which task number. A number is never used twice.

    Args:
        dropped: called with the number of a task whose future nobody holds any more, from a garbage collection: in any
            thread, inside any lock.
    """

    def __init__(self, dropped: Callable[[int], None] = lambda number: None) -> None:
        self._futures: dict[int, FutureT | _Ref[FutureT]] = {}
        self._next = 0
        self._dropped: Callable[[Any], None] = lambda ref: dropped(ref.number)

    def __len__(self) -> int:
        return len(self._futures)

    def next_number(self) -> int:
        """A fresh number."""
        self._next += 1
        return self._next

    def add(self, number: int, future: FutureT, hold: bool = True) -> None:
        """Wait with this future, which others have to `hold` if the table does not."""
        if hold:
            self._futures[number] = future
            return
        ref = _Ref(future, self._dropped)
        ref.number = number
        self._futures[number] = ref

    def hold(self, number: int, future: FutureT) -> None:
        """From now on, the table holds this one, if it still waits."""
        if number in self._futures:
            self._futures[number] = future

    def knows(self, number: int) -> bool:
        """Whether a future still waits for this task."""
        return _alive(self._futures.get(number)) is not None

    def all(self) -> list[FutureT]:
        """All that still wait."""
        return [future for entry in list(self._futures.values()) if (future := _alive(entry)) is not None]

    def take(self, number: int) -> FutureT | None:
        """The future that waited for this task and now does no more; None for one that was cancelled or dropped."""
        return _alive(self._futures.pop(number, None))

    def drop(self, number: int) -> bool:
        """Forget a task whose future nobody holds; returns whether it was still waited for."""
        return self._futures.pop(number, None) is not None

    def take_all(self) -> list[FutureT]:
        """All that still waited: the connection is gone."""
        futures = self.all()
        self._futures = {}
        return futures


def _alive(entry: FutureT | _Ref[FutureT] | None) -> FutureT | None:
    return entry() if isinstance(entry, _Ref) else entry
