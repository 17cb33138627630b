"""Attempts that run for nobody just now: clients come back, and submit their tasks again.

The scheduler may be another one, which knows of them what workers bring along:

    the lost scheduler      this one
    ──────────────────      ────────
    Run ─► worker           the worker joins, and says what it holds       ─► a hold
                            Done comes                                     ─► kept with the hold
    Submit ◄─ client        the client joins, and submits what is not done ─► the hold is adopted: the task is Running
                            Resubmitted                                    ─► the client's other holds are stopped

Or the connection to a client was cut, and what it had running goes on for as long as the client tries to come back.

Both ends name a task alike, since its number at the scheduler is made of a key, which the client has drawn, and of the
client's own number. A client draws a key each time it connects, and tells its last ones too. So a task keeps its
number, and no message about an old attempt can be taken for one about a new one. Tasks within tasks have no such
numbers: they end with the scheduler, and the task that has lost them is tried again (`CUT_OFF`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from minidask.wire import messages as m

from .tasks import ClientRecord, LetGo, Needs, TaskRecord, WorkerRecord

EARLY_BYTES = 256 << 20
"""So much is kept of what attempts say that run for nobody just now, of all of them."""
REPORT_BYTES, CHARACTER_BYTES = 1024, 4

HOLD_SECONDS = 10.0
"""How long what runs waits for its client: one that is alive tries to connect at least once a second."""
MANY = 1 << 20
"""More attempts than one scheduler has made of a task."""


@dataclass(slots=True, eq=False)
class Hold:
    """An attempt that a worker runs, or has run; `early` are its reports, for a task that is not known yet.

    It has its slot until there is a report that tells of its end. The `blobs` are kept for it. `owner` is the `uid` of
    its client; None if this scheduler has not seen it.
    """

    worker: WorkerRecord
    task: int
    attempt: int
    until: float
    early: list[m.Report] = field(default_factory=list)
    has_slot: bool = True
    blobs: list[bytes] = field(default_factory=list)
    owner: str | None = None
    early_bytes: int = 0


class Holds:
    """All holds, by the number of the task.

    Args:
        send: takes each message to send, with its peer.
        changed: called with a worker whose number of free slots has changed.
        release: called with blobs that are kept for a hold no more.
    """

    def __init__(
        self,
        send: Callable[[int, m.Message], None],
        changed: Callable[[WorkerRecord], None],
        release: Callable[[list[bytes]], None],
    ) -> None:
        self._send = send
        self._changed = changed
        self._release = release
        self._holds: dict[int, Hold] = {}
        self._early_bytes = 0

    def add(self, worker: WorkerRecord, task: int, attempt: int, now: float) -> None:
        """Note an attempt that a worker has brought along. If two workers have one of a task, the later one goes on."""
        other = self._holds.get(task)
        if other is not None and other.attempt >= attempt:
            self.stop(worker, task, attempt)
            return
        if other is not None:
            self._stop([other])
        self._holds[task] = Hold(worker, task, attempt, now + HOLD_SECONDS)
        worker.held[task, attempt] = None

    def add_all(self, attempts: Iterable[LetGo], until: float, owner: str) -> None:
        """Note the attempts of a client that was cut off, and has this `uid`. So long they go on."""
        for worker, task, blobs in attempts:
            self._holds[task.id] = Hold(worker, task.id, task.attempt, until, blobs=blobs, owner=owner)
            worker.held[task.id, task.attempt] = task.needs
            self._changed(worker)

    def keep(self, worker: WorkerRecord, message: m.Message) -> bool:
        """Keep a worker's report if it is about a hold. Returns whether it is.

        A hold that has not begun, and is given back, is none any more: its task will begin when it is submitted again.
        One that says more than there is room for is stopped, with the same end.
        """
        if not (self._holds or worker.ending) or not isinstance(message, m.Report | m.GaveBack):
            return False
        hold = self._holds.get(message.task)
        if hold is None or hold.worker is not worker or hold.attempt != message.attempt:
            if (message.task, message.attempt) in worker.ending and not isinstance(message, m.TaskMessage):
                del worker.ending[message.task, message.attempt]
                self._changed(worker)
            return False
        if isinstance(message, m.GaveBack):
            self._remove(hold)
            return True
        size = _size(message)
        if self._early_bytes + size > EARLY_BYTES:
            self._stop([hold])
            return True
        hold.early.append(message)
        hold.early_bytes += size
        self._early_bytes += size
        if not isinstance(message, m.TaskMessage):
            self._free_slot(hold)
        return True

    def blobs(self) -> Iterable[bytes]:
        """The blobs that are kept for holds, one for each hold that needs it."""
        return (blob for hold in self._holds.values() for blob in hold.blobs)

    def without_keys_of_others(self, client: ClientRecord, clients: Iterable[ClientRecord]) -> ClientRecord:
        """Forget the keys of a client that belong to another one: they are short, and workers see them in numbers.

        With them it would take the place of that one, and get its results.
        """
        owners = {key: other.uid for other in clients for key in other.keys}
        owners |= {hold.task // m.OUTLIVES: hold.owner for hold in self._holds.values() if hold.owner is not None}
        keys = [key for key in client.keys if owners.get(key, client.uid) == client.uid]
        client.keys = tuple(keys) if client.keys[:1] == tuple(keys[:1]) else ()
        return client

    def find(self, client: ClientRecord, number: int) -> Hold | None:
        """The hold of a task that a client submits; None if there is none."""
        if self._holds:
            for key in client.keys:
                hold = self._holds.get(number_of(key, number))
                if hold is not None:
                    return hold
        return None

    def adopted(self, hold: Hold) -> None:
        """The task of a hold has adopted the attempt, and needs the blobs itself."""
        self._remove(hold)

    def stop_others(self, client: ClientRecord) -> None:
        """Stop what runs for a client and was not submitted again: it was cancelled meanwhile, or is over."""
        if client.settled:
            return  # whatever came later of its attempts was stopped at once
        client.settled = True
        self._stop(hold for hold in self._holds.values() if hold.task // m.OUTLIVES in client.keys)

    def tick(self, now: float) -> None:
        """Stop what nobody has submitted again for too long."""
        self._stop(hold for hold in self._holds.values() if now > hold.until)

    def lose_worker(self, worker: WorkerRecord) -> None:
        """A worker has left, and with it what it holds."""
        for hold in [hold for hold in self._holds.values() if hold.worker is worker]:
            self._forget(hold)
        worker.held.clear()
        worker.ending.clear()

    def stop(self, worker: WorkerRecord, task: int, attempt: int, needs: Needs | None = None) -> None:
        """Stop an attempt that nobody wants. What it needs is held until its worker says that it is over."""
        if worker.resources and needs != ():
            worker.ending[task, attempt] = needs
        self._send(worker.peer, m.Stop(task, attempt))

    def _stop(self, holds: Iterable[Hold]) -> None:
        for hold in list(holds):
            self.stop(hold.worker, hold.task, hold.attempt, hold.worker.held.get((hold.task, hold.attempt), ()))
            self._remove(hold)

    def _remove(self, hold: Hold) -> None:
        self._forget(hold)
        self._free_slot(hold)

    def _forget(self, hold: Hold) -> None:
        del self._holds[hold.task]
        self._early_bytes -= hold.early_bytes
        self._release(hold.blobs)

    def _free_slot(self, hold: Hold) -> None:
        if hold.has_slot:
            hold.has_slot = False
            del hold.worker.held[hold.task, hold.attempt]
            self._changed(hold.worker)


def _size(report: m.Report) -> int:
    texts = sum(len(value) for value in report if type(value) is str)
    return REPORT_BYTES + CHARACTER_BYTES * texts + sum(map(len, getattr(report, "payload", ())))


def number_of(key: int, number: int) -> int:
    """The scheduler's number of a client's task."""
    return key * m.OUTLIVES + number


def next_attempt(task: TaskRecord) -> int:
    """The number of a task's next attempt, after it had one.

    If the task was adopted, lost schedulers may have begun others, which run on workers that come later. So the number
    is above all that they can have given, while the client had fewer keys.
    """
    adopted = task.id >= m.OUTLIVES and task.id // m.OUTLIVES != task.client.keys[0]
    return max(task.newest, len(task.client.keys) * MANY if adopted else 0) + 1
