"""The scheduler's decisions, and nothing else: no sockets, no clock, no bytes of a user's unpickled.

One door: `handle(event, now)` takes what happened and returns the messages to send, as `(peer, message)`.
`place(now)` then hands ready tasks to workers; the shell calls it once per batch of events. Peers are
numbers that the shell gives out. A message about an attempt that is no longer the task's current one,
or from a worker that no longer has it, is stale and is dropped by rule.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from minidask.errors import ProtocolError
from minidask.host.versions import PYTHON, described, fits, minor, mismatch
from minidask.wire import messages as m

from .attempts import Attempts
from .blobs import BlobTable
from .describe import describe
from .events import Event, Joined, Left, Received
from .nesting import IdleNotices
from .restarts import Restarts
from .router import BlobRouter
from .tasks import Cancelled, ClientRecord, GroupRecord, Ready, Running, TaskRecord, WorkerRecord

LOST_AFTER_SECONDS = 30.0
NO_WORKERS_SECONDS = 60.0

# Larger than any that there can be; what is passed on has to be within the wire's limits too.
MAX_SLOTS = 1 << 16
MAX_COUNT = 1 << 32
MAX_BLOBS = 1 << 19
MAX_NAME = 1 << 20
MAX_OUTPUT = 1 << 23
PLAIN = (str, int, float, bool, type(None))

Outbox = list[tuple[int, m.Message]]


class SchedulerCore:
    """All of the scheduler's state; see the module's docstring.

    Args:
        info: what `Ask` tells of the scheduler itself.
        no_workers_seconds: how long ready tasks wait while there is no worker at all, before they fail.
    """

    def __init__(self, info: dict[str, Any] | None = None, no_workers_seconds: float = NO_WORKERS_SECONDS) -> None:
        self.info = info or {}
        self.no_workers_seconds = no_workers_seconds
        self.clients: dict[int, ClientRecord] = {}
        self.workers: dict[int, WorkerRecord] = {}
        self.blobs = BlobTable()
        self.stopping = False
        self._next_task = 0
        self._out: Outbox = []
        self.data = BlobRouter(self.blobs, self.workers, self.clients, self._send)
        self.attempts = Attempts(self.clients, self.workers, self.data, self._send)
        self.idle_notices = IdleNotices(self.attempts.pool, self._send)
        self.restarts = Restarts(self.workers, self._send)
        self._from_client: dict[type[Any], Callable[[ClientRecord, Any], None]] = {
            m.PutBlob: self.data.put,
            m.OfferBlob: self.data.offer,
            m.ReleaseBlobs: self.data.release,
            m.Chunk: self.data.answer,
            m.NoBlob: self.data.answer,
            m.FetchChunk: self.data.result_chunk_wanted,
            m.ResultTaken: self.data.result_taken,
            m.OpenGroup: self._open_group,
            m.CloseGroup: self._close_group,
            m.Submit: self._submit,
            m.Cancel: self._cancel,
            m.CancelAll: self._cancel_all,
            m.Restart: self.restarts.ask,
            m.Ask: self._answer,
            m.RanInline: self._ran_here,
            m.Shutdown: self._shutdown,
        }
        self._from_worker: dict[type[Any], Callable[[WorkerRecord, Any], None]] = {
            m.Done: self.attempts.done,
            m.Failed: self.attempts.failed,
            m.Died: self.attempts.died,
            m.Stopped: self.attempts.stopped,
            m.GaveBack: self.attempts.returned,
            m.Output: self._output,
            m.TaskMessage: self.attempts.tell_caller,
            m.Heartbeat: self._heartbeat,
            m.Resized: self._resized,
            m.Restarted: self.restarts.done,
            m.HaveBlob: self.data.have,
            m.FetchFailed: self.data.failed,
            m.FetchChunk: self.data.chunk_wanted,
            m.OfferResult: self.attempts.offer_result,
            m.Waiting: self.attempts.waiting,
            m.Resumed: self.attempts.resumed,
            m.Chunk: self.data.result_chunk,
            m.NoBlob: self.data.result_chunk,
        }

    # --- the door ---

    def handle(self, event: Event, now: float) -> Outbox:
        """Take one event; return the messages to send.

        Raises:
            ProtocolError: the peer sent what it must not send; its connection is to be closed.
        """
        if type(event) is Received:
            self._receive(event.peer, event.message, now)
        elif type(event) is Joined:
            self._join(event, now)
        elif type(event) is Left:
            self._leave(event.peer, event.reason)
        else:
            self._tick(now)
        return self.take()

    def place(self, now: float) -> Outbox:
        """Give ready tasks to workers as far as they go; return the messages to send."""
        self.attempts.place(now)
        self.idle_notices.send_changes()
        return self.take()

    def recipient(self, task: int, attempt: int) -> int:
        """The client that waits for the outcome of an attempt; 0 if none does."""
        record = self.attempts.tasks.get(task)
        wanted = record is not None and record.attempt == attempt and type(record.state) is Running
        return record.client.peer if record is not None and wanted else 0

    def _send(self, peer: int, message: m.Message) -> None:
        self._out.append((peer, message))

    def take(self) -> Outbox:
        """The messages that are to be sent and were not returned yet."""
        out, self._out = self._out, []
        return out

    def _receive(self, peer: int, message: m.Message, now: float) -> None:
        worker = self.workers.get(peer)
        if worker is not None:
            worker.seen = now
            handler = self._from_worker.get(type(message))
            if handler is None:
                raise ProtocolError(f"a worker may not send {type(message).__name__}")
            handler(worker, message)
            return
        client = self.clients.get(peer)
        if client is None:
            raise ProtocolError(f"{type(message).__name__} from a peer that has not joined")
        command = self._from_client.get(type(message))
        if command is None:
            raise ProtocolError(f"a client may not send {type(message).__name__}")
        command(client, message)

    # --- peers come and go ---

    def _join(self, event: Joined, now: float) -> None:
        info: dict[str, Any] = {key: value for key, value in event.info.items() if isinstance(value, PLAIN)}
        name = str(info.get("name") or event.address)
        python = minor(info.get("python"))
        if event.role == "client":
            forward_output, nested = bool(info.get("forward_output", True)), bool(info.get("nested"))
            client = self.clients[event.peer] = ClientRecord(event.peer, name, forward_output, nested, python)
            self._out.append((event.peer, self._worker_list()))
            self._see_who_is_served([client])
            for worker in self.workers.values():
                self._note_other_pythons(worker, client)
            return
        slots, prefetch = info.get("slots"), info.get("prefetch", 0)
        if type(slots) is not int or not 0 <= slots <= MAX_SLOTS:
            raise ProtocolError(f"a machine must say how many workers it has, 0 to {MAX_SLOTS}, and not {slots!r}")
        if type(prefetch) is not int or not prefetch >= 0:
            raise ProtocolError(f"a worker cannot hold {prefetch!r} calls in advance")
        serves, place = str(info.get("serves") or ""), str(info.get("place") or "")
        versions = described(event.info)
        info["packages"] = {package: version for package, version in versions.items() if package != PYTHON}
        worker = WorkerRecord(
            event.peer, event.address, name, slots, prefetch, info, now, serves, place, versions=versions, python=python
        )
        self.workers[event.peer] = worker
        self.data.join(worker)
        self.attempts.pool.update(worker)
        self._slots_changed(worker, slots)
        for client in self.clients.values():
            self._note_other_pythons(worker, client)

    def _leave(self, peer: int, reason: str) -> None:
        worker = self.workers.pop(peer, None)
        if worker is not None:
            self._lose_worker(worker, reason)
        client = self.clients.pop(peer, None)
        if client is not None:
            self.idle_notices.leave(client)
            self.restarts.leave(client)
            self._lose_client(client)

    def _lose_worker(self, worker: WorkerRecord, reason: str) -> None:
        self.data.lose(worker)
        self.restarts.lose(worker)
        self.attempts.lose_worker(worker, reason)
        self._slots_changed(worker, None)

    def _lose_client(self, client: ClientRecord) -> None:
        for task in list(client.tasks.values()):
            self.attempts.drop(task, force=True)
        self.attempts.ready.forget(client)
        self.data.leave(client)

    def _worker_list(self) -> m.Workers:
        return m.Workers([[w.address, w.name, w.slots, w.versions] for w in self.workers.values()])

    def _slots_changed(self, worker: WorkerRecord, slots: int | None) -> None:
        message = m.WorkerChanged(worker.address, worker.name, slots, worker.versions)
        self._out += [(peer, message) for peer in self.clients]
        self._see_who_is_served(self.clients.values())

    # --- several Pythons ---

    def _pythons(self) -> set[str]:
        """Those of the workers that take tasks."""
        return {worker.python for worker in self.workers.values() if worker.slots}

    def _see_who_is_served(self, clients: Iterable[ClientRecord]) -> None:
        """Refuse the tasks of clients that have never had a worker of their Python, while there are only others.

        Whoever has had one may hope that it comes back.
        """
        pythons = self._pythons()
        for client in clients:
            client.served = client.served or fits(client.python, pythons)
            client.refused = "" if client.served or not pythons else self._all_others(client)
            if client.refused:
                self._fail_waiting(client, "version", client.refused)

    def _all_others(self, client: ClientRecord) -> str:
        workers = [(f"{w.name} at {w.address}", w.versions[PYTHON]) for w in self.workers.values() if w.slots]
        return mismatch(client.python, workers)

    def _note_other_pythons(self, worker: WorkerRecord, client: ClientRecord) -> None:
        """Have it in the log of a worker that it gets no tasks of a client, once for each Python."""
        if client.nested or fits(client.python, (worker.python,)) or client.python in worker.told:
            return
        worker.told.add(client.python)
        self._send(worker.peer, m.Notice(
            f"machine {worker.name} runs Python {worker.versions[PYTHON]} and client {client.name} Python"
            f" {client.python}, which cannot run each other's functions: it gets none of the tasks of such clients"
        ))  # fmt: skip

    def _fail_waiting(self, client: ClientRecord, reason: str, text: str) -> None:
        for task in list(client.tasks.values()):
            # Others may still run on workers that are about to end, and so may what those have submitted.
            if type(task.state) is Ready and task.parent is None:
                self.attempts.lose(task, "fail", reason, text)

    def _tick(self, now: float) -> None:
        for worker in list(self.workers.values()):
            if now - worker.seen > LOST_AFTER_SECONDS:
                silence = f"it was silent for {LOST_AFTER_SECONDS:.0f} seconds"
                self._out.append((worker.peer, m.Goodbye(silence)))
                self._leave(worker.peer, silence)
        pythons = self._pythons()
        for client in list(self.clients.values()):
            if not client.tasks or fits(client.python, pythons):
                client.starved_since = None
            elif client.starved_since is None:
                client.starved_since = now
            elif now - client.starved_since >= self.no_workers_seconds:
                client.starved_since = None
                self._fail_waiting(client, "no-workers", self._nobody_came(client))

    def _nobody_came(self, client: ClientRecord) -> str:
        others = f". Now {self._all_others(client)}" if self._pythons() else ""
        return (
            f"no worker was there to run it for {self.no_workers_seconds:.0f} seconds:"
            f" start some with minidask-worker ADDRESS, on as many machines as you like{others}"
        )

    # --- what clients ask for ---

    def _open_group(self, client: ClientRecord, message: m.OpenGroup) -> None:
        if message.group in client.groups or message.group <= 0 or message.limit < 0:
            raise ProtocolError(f"group {message.group} with limit {message.limit} cannot be opened")
        parent = self._parent(message) if message.parent else None
        client.groups[message.group] = GroupRecord(message.group, message.limit)
        if client.nested:
            self.idle_notices.subscribe(client, message.group, parent)

    def _close_group(self, client: ClientRecord, message: m.CloseGroup) -> None:
        client.groups.pop(message.group, None)
        self.idle_notices.unsubscribe(client, message.group)

    def _submit(self, client: ClientRecord, message: m.Submit) -> None:
        group = client.groups.get(message.group) if message.group else None
        if message.task in client.tasks:
            raise ProtocolError(f"task {message.task} is submitted twice")
        if len(message.blobs) > MAX_BLOBS or len(message.name) > MAX_NAME:
            raise ProtocolError(
                f"task {message.task} needs too many blobs, {len(message.blobs)}, or has too long a name"
            )
        if not message.payload:
            raise ProtocolError(f"task {message.task} has no payload")
        if group is not None and message.pin is not None:
            raise ProtocolError(f"task {message.task} is pinned to a worker, so it cannot be of a group")
        if message.timeout is not None and not message.timeout > 0:
            raise ProtocolError(f"task {message.task} has a timeout of {message.timeout} seconds; it must be above 0")
        missing = [blob.hex() for blob in message.blobs if blob not in client.blobs]
        if missing or (message.group and group is None):
            # No reason to end the connection, and with it every other task: that concerns this one alone.
            why = f"its client does not hold blob {missing[0]}" if missing else f"group {message.group} is not open"
            self._send(client.peer, m.TaskLost(message.task, "internal", f"task {message.name!r}: {why}"))
            return
        parent = None
        if message.parent:
            parent = self._parent(message)
            if parent is None:
                text = f"task {message.name!r}: the task that has submitted it has ended"
                self._send(client.peer, m.TaskLost(message.task, "cancelled", text))
                return
        if client.refused:
            self._send(client.peer, m.TaskLost(message.task, "version", f"task {message.name!r}: {client.refused}"))
            return
        self._next_task += 1
        if client.task_blobs != message.blobs:
            client.task_blobs = message.blobs
        task = TaskRecord(
            self._next_task, client, message.task, sys.intern(message.name), message.priority, message.timeout,
            group, message.pin, client.task_blobs, message.payload, parent=parent,
        )  # fmt: skip
        self.attempts.add(task)

    def _parent(self, message: m.Submit | m.RanInline | m.OpenGroup) -> TaskRecord | None:
        """The task that a message is from, if that attempt of it goes on and has not been stopped."""
        if len(message.parent) != 2:
            raise ProtocolError(f"a parent is named by two numbers, not {len(message.parent)}")
        number, attempt = message.parent
        task = self.attempts.tasks.get(number)
        if task is None or task.attempt != attempt:
            return None
        state = task.state
        return task if type(state) is Running or (type(state) is Cancelled and not state.stopped) else None

    def _cancel(self, client: ClientRecord, message: m.Cancel) -> None:
        for number in message.tasks:
            task = client.tasks.get(number)
            if task is not None:
                self.attempts.drop(task, message.force)

    def _cancel_all(self, client: ClientRecord, message: m.CancelAll) -> None:
        for number, task in list(client.tasks.items()):
            if type(task.state) is not Cancelled and number in client.tasks:
                self._send(client.peer, m.TaskLost(task.number, "cancelled", f"task {task.name!r}: it was cancelled"))
            self.attempts.drop(task, message.force)

    def _answer(self, client: ClientRecord, message: m.Ask) -> None:
        info = describe(self.info, self.workers, self.clients, self.attempts, client.python)
        self._send(client.peer, m.Answer(message.request, {**info, "you": client.peer}))

    def _ran_here(self, client: ClientRecord, message: m.RanInline) -> None:
        if not 0 <= message.failed <= message.finished <= MAX_COUNT:
            raise ProtocolError(f"{message.failed} of {message.finished} calls cannot have failed")
        parent = self._parent(message) if message.parent else None
        if parent is not None:
            parent.root.within.add(message.finished, message.failed)

    def _shutdown(self, client: ClientRecord, message: m.Shutdown) -> None:
        self.stopping = True
        self._out += [(peer, m.Shutdown()) for peer in self.workers]

    # --- what else workers say ---

    def _output(self, worker: WorkerRecord, message: m.Output) -> None:
        client = self.clients.get(message.client)
        if client is not None and client.forward_output:
            text = message.text[:MAX_OUTPUT]
            self._out.append((client.peer, m.TaskOutput(f"{worker.name}.{message.slot}", message.stream, text)))

    def _heartbeat(self, worker: WorkerRecord, message: m.Heartbeat) -> None:
        worker.memory = message.memory

    def _resized(self, worker: WorkerRecord, message: m.Resized) -> None:
        if not 0 <= message.slots <= MAX_SLOTS:
            raise ProtocolError(f"a machine cannot have {message.slots} workers, but 0 to {MAX_SLOTS}")
        worker.slots = message.slots
        self.attempts.pool.update(worker)
        self._slots_changed(worker, worker.slots)
