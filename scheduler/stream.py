"""What happens in the cluster, as it is told to those who look. Part of `SchedulerCore`, and as pure.

    core, attempts, router ─► rows ─ a batch each tenth of a second, at most ─► Events, to each subscriber
    workers ─ Activity ─────►         │
                              too many, or a subscriber that does not read: left out, and counted

Nobody looks most of the time: then `on` is False, whoever has something to tell looks at that first, and no worker is
asked for anything. A new subscriber first gets a snapshot: the machines, the clients, and what runs. Whoever follows
the rows from there on knows all that is told in them. Once a second come all counts, so nothing that was left out stays
wrong for long.

What an administrator has to know is a line of the scheduler's log, whether somebody looks or not.

A row is an array: its kind, the time, and what docs/protocol.md says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from minidask.host.sizes import count
from minidask.host.versions import PYTHON
from minidask.wire import messages as m
from minidask.wire.observing import Activity, Events, Subscribe
from minidask.wire.packing import pack

from .tasks import ClientRecord, Running, TaskRecord, WorkerRecord

BATCH_SECONDS = 0.1
MOST_ROWS = 20_000
"""Of a batch. What is more is left out."""
MOST_BYTES = 1 << 20
"""Of one worker's Activity: what is larger is left out."""
MOST_BYTES_AT_ONCE = 1 << 25
"""Of all workers' Activity in a batch."""
MAX_TEXT = 2000

LOG = 0
STORY = -1
"""In the place of a peer: a Notice to it is a line for the scheduler's own log. To `STORY`: with no need to act."""

CANCELLED = ("cancel", "end")
"""The steps by which a task ends whose outcome nobody wants."""

LOGGED = (m.Reason.KILLED, m.Reason.TIMEOUT, m.Reason.SERIALIZATION, m.Reason.INTERNAL)
"""Why a task is lost, where each has a line in the log. Of the others there may be a million at once."""


class EventStream:
    """Gathers rows, and sends them to all subscribers.

    Args:
        workers: all of them, by peer; the scheduler's own table.
        send: takes each message to send, with its peer.

    Attributes:
        on: whether anybody looks.
        now: the time of what is told next.
    """

    def __init__(self, workers: Mapping[int, WorkerRecord], send: Callable[[int, m.Message], None]) -> None:
        self.on = False
        self.now = 0.0
        self._workers = workers
        self._send = send
        self._subscribers: dict[int, ClientRecord] = {}
        self._missed: dict[int, int] = {}  # by subscriber: how many rows it was not sent
        self._rows: list[tuple[Any, ...]] = []
        self._left_out = self._bytes = 0
        self._due = inf

    # --- who looks ---

    def subscribe(self, client: ClientRecord, on: bool, info: dict[str, Any]) -> None:
        """A client looks from now on, or no more. If it does, it is sent a snapshot.

        Args:
            info: the description of the cluster.
        """
        if not on:
            self.lose_client(client)
            return
        self._flush()  # what has happened before is in the snapshot
        if not self.on:
            self.on, self._due = True, self.now + BATCH_SECONDS
            for worker in self._workers.values():
                self._send(worker.peer, Subscribe(True))
        self._subscribers[client.peer] = client
        self._missed[client.peer] = 0
        tasks = (task for worker in self._workers.values() for task in worker.tasks.values())
        running = [_started(task, 0.0) for task in tasks if type(task.state) is Running and not task.lease]
        rows = [("snapshot", self.now, info), *running]
        self._send(client.peer, Events(self.now, 0, [pack(rows)]))

    def lose_client(self, client: ClientRecord) -> None:
        """A client looks no more."""
        if self._subscribers.pop(client.peer, None) is not None and not self._subscribers:
            self.on, self._due = False, inf
            self._rows.clear()
            for worker in self._workers.values():
                self._send(worker.peer, Subscribe(False))

    def flush(self, now: float) -> None:
        """Send a batch, if one is due."""
        if now >= self._due:
            self._flush()
            self._due = now + BATCH_SECONDS

    def _flush(self) -> None:
        rows, left_out = self._rows[:MOST_ROWS], self._left_out + max(0, len(self._rows) - MOST_ROWS)
        if not rows and not left_out:
            return
        self._rows.clear()
        self._left_out = self._bytes = 0
        payload = pack(rows)
        for peer, client in self._subscribers.items():
            if client.lags:
                self._missed[peer] += len(rows) + left_out
            else:
                self._send(peer, Events(self.now, self._missed[peer] + left_out, [payload]))
                self._missed[peer] = 0

    def _tell(self, *row: Any) -> None:
        if self.on:
            self._rows.append(row)

    def log(self, text: str) -> None:
        """Have a warning written to the scheduler's log."""
        self._send(LOG, m.Notice(text))

    def _log(self, text: str) -> None:
        self._send(STORY, m.Notice(text))

    # --- machines and clients ---

    def machine(self, worker: WorkerRecord) -> None:
        """A machine has joined, or has another number of workers now."""
        self._tell("machine", self.now, worker.address, worker.name, worker.slots, worker.info.get("host", ""),
                   worker.versions.get(PYTHON, ""))  # fmt: skip

    def machine_joined(self, worker: WorkerRecord) -> None:
        """A machine has joined."""
        if self.on:
            self._send(worker.peer, Subscribe(True))
            self.machine(worker)

    def machine_left(self, worker: WorkerRecord, reason: str, tasks: int) -> None:
        """A machine has left. So many tasks are run elsewhere.

        Nothing is logged if there are none: the shell has a line of its own for each connection that ends.
        """
        self._tell("machine-left", self.now, worker.address, worker.name, reason, tasks)
        if tasks:
            self.log(f"machine {worker.name} is lost: {reason}; to be run elsewhere: {count(tasks, 'task')}")

    def client_joined(self, client: ClientRecord) -> None:
        """A client has joined, and is not one of a slot."""
        if not client.nested:
            self._tell("client", self.now, client.peer, client.name)

    def client_left(self, client: ClientRecord, reason: str) -> None:
        """A client has left."""
        self.lose_client(client)
        if not client.nested:
            self._tell("client-left", self.now, client.peer, client.name, reason)

    def counted(self, info: dict[str, Any]) -> None:
        """A second has passed: tell all counts anew."""
        self._tell("counts", self.now, info["clients"], info["tasks"])

    def activity(self, worker: WorkerRecord, message: Activity) -> None:
        """A worker has told what its slots do."""
        (payload,) = message.payload
        self._bytes += len(payload)
        if len(payload) <= MOST_BYTES and self._bytes <= MOST_BYTES_AT_ONCE:
            self._tell("activity", self.now, worker.address, bytes(payload))
        elif self.on:
            self._left_out += 1

    def fetched(self, blob: bytes, size: int, worker: WorkerRecord, source: WorkerRecord | None) -> None:
        """A worker has got a blob, from another one or from a client."""
        self._tell("fetched", self.now, blob.hex(), size, worker.address, source.address if source is not None else "")

    # --- tasks; for leases nothing is told, as `Activity` has their calls ---

    def submitted(self, task: TaskRecord) -> None:
        """A client has submitted a task."""
        if not task.lease:
            group, parent = task.group.number if task.group else 0, task.parent.id if task.parent else 0
            self._rows.append(("submitted", self.now, task.id, task.name, task.root.peer, group, parent))

    def started(self, task: TaskRecord) -> None:
        """An attempt was sent to a worker."""
        if self.on and not task.lease:
            self._rows.append(_started(task, self.now))

    def ended(self, task: TaskRecord, step: str, seconds: float, text: str) -> None:
        """A task is over by this step of the table. To be called before it takes that step."""
        if not task.lease:
            text = text.rstrip().rpartition("\n")[2][:MAX_TEXT] if text else ""  # of a traceback, the error
            how = "cancelled" if step in CANCELLED else step
            self._rows.append(("ended", self.now, task.id, task.name, task.root.peer, _where(task), how, seconds, text))

    def lost(self, task: TaskRecord, reason: str, text: str) -> None:
        """A task ends without an outcome of its own."""
        if reason in LOGGED:
            self._log(f"{_what(task)} is lost: {text[:MAX_TEXT]}")

    def again(self, task: TaskRecord, step: str, text: str) -> None:
        """An attempt is over without an outcome. To be called before the task takes that step of the table."""
        self._tell("again", self.now, task.id, task.name, task.root.peer, _where(task), step, text[:MAX_TEXT])
        if step == "died":
            self._log(f"{_what(task)} has lost its worker process, death {task.deaths}: {text[:MAX_TEXT]}")

    def all_lost(self, client: ClientRecord, tasks: int, text: str) -> None:
        """A client has lost tasks that had not begun, all for one reason."""
        if tasks:
            self._log(f"client {client.name} has lost {count(tasks, 'task')} that had not begun: {text[:MAX_TEXT]}")


def _started(task: TaskRecord, now: float) -> tuple[Any, ...]:
    """The row of a task that runs, since `now`; 0: nobody knows."""
    return "started", now, task.id, task.name, task.root.peer, _where(task), task.attempt


def _where(task: TaskRecord) -> str:
    """The address of the machine that has a task; empty if none has."""
    worker: WorkerRecord | None = getattr(task.state, "worker", None)
    return worker.address if worker is not None else ""


def _what(task: TaskRecord) -> str:
    kind = f"the lease for calls of {task.name!r}" if task.lease else f"task {task.name!r}"
    return f"{kind} of client {task.root.name}"
