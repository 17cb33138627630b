"""The scheduler's decisions, and nothing else: no sockets, no clock, no bytes of a user unpickled.

One door
--------

Whatever happens is an event: a peer has joined, a peer has left, a message has come, time has passed. `handle(event,
now)` takes one event and returns the messages to send, as pairs of peer and message. `assign(now)` then sends ready
tasks to workers; the shell calls it once for a batch of events, so that a choice among workers sees all that are free.
Peers are numbers that the shell gives out, and the time is an argument. So a test can play a whole cluster, in any
order of events, without a socket or a wait; and after each event `invariants.check` can look at all of the state.

                        ┌───────────────────────────────────────────────┐
    server.py ─ event ─►│ handle ─► one method for each type of message │
              ◄ outbox ─│             │                                 │
                        │             ▼                                 │
                        │   attempts: the life of each task             │
                        │     │ ready tasks wait in:                    │
                        │     ├─ ready      turns of clients            │
                        │     ├─ pinned     for one worker each         │
                        │     └─ nesting    guests for lent slots       │
                        │             ▲                                 │
              ─ now ───►│ assign ─────┘─► placement: to which worker    │
                        └───────────────────────────────────────────────┘

The life of a task
------------------

`tasks.py` has it as a table, and all changes of state go through that. A task is Ready until `assign` sends its first
*attempt* to a worker: Running. If the client must fetch a large result, the task is Delivering from its return on, and
needs no slot. The attempt ends in one of five ways, of which the worker tells one, once:

    Done, Failed   the task has an outcome. The client is told, and the scheduler forgets the task.
    Stopped        a timeout or a cancelled task.
    Died           the slot's process has ended under it. The task is Ready again, for its next attempt; after three
                   deaths it is lost, since it is likely to be the one that kills its processes.
    GaveBack       it has not started: the worker was sent more than it had slots for. Ready again, with no harm done.

If the worker itself is lost, so are its attempts, and each of their tasks is Ready again. A client may cancel: a Ready
or Delivering task then ends at once. A Running one is Cancelled until the worker has said that its attempt is over, for
until then its slot is not free. So every submitted task gets one outcome; a cancelled one gets one at most.

The stale rule
--------------

Messages cross on their way. A worker reports an attempt as the scheduler takes that worker for lost; a task waits,
says so, and is over before that word is read. So whatever speaks of a task names its number and its attempt, and

    a message counts only if the attempt is the last one of its task, and the sender has that task.

All others are stale, and are dropped without a word. `tasks.current_attempt` is that rule, and the only place of it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from minidask.errors import ProtocolError
from minidask.host.sizes import count
from minidask.wire import messages as m
from minidask.wire.observing import Activity

from .adoption import Adoption
from .amounts import needs_of
from .answers import Answers
from .attempts import MAX_DEATHS, Attempts, died_too_often
from .blobs import BlobTable
from .events import Event, Joined, Lagging, Left, Received, Tick, Unsent
from .holds import Holds, number_of
from .joining import client_of, worker_of
from .nesting import IdleNotices, Nesting
from .news import News
from .placement import WorkerPool
from .pythons import Pythons
from .quota import RECORD_BYTES, Quota, size_of
from .ready import ReadyQueue
from .restarts import Restarts
from .router import BlobRouter
from .stream import EventStream
from .submissions import check_counts, check_group, check_parent, check_submission, refusal_of
from .tasks import Cancelled, ClientRecord, Delivering, GroupRecord, Running, TaskRecord, WorkerRecord, current_attempt

HEARTBEAT_TIMEOUT = 15.0
NO_WORKERS_SECONDS = 60.0
LEAST_STANDSTILL, MOST_BETWEEN_TICKS = 1.5, 5.0
"""Seconds between two ticks. If it was more than one of these, this process stood still, and could hear nobody."""

MAX_OUTPUT = 1 << 23
MAX_ROWS, MAX_SHOWN = 1000, 200

Outbox = list[tuple[int, m.Message]]


class SchedulerCore:
    """All of the scheduler's state; see the top of this file.

    Args:
        info: what the answer to `Ask` tells of the scheduler itself.
        no_workers_seconds: how long ready tasks wait while there is no worker for them, before they are lost.
        heartbeat_timeout: after how many seconds of silence a worker is lost.
        allow_shutdown: whether any client may end the cluster.
        memory_limit: how many bytes it keeps for all clients together.
    """

    def __init__(
        self,
        info: dict[str, Any] | None = None,
        no_workers_seconds: float = NO_WORKERS_SECONDS,
        heartbeat_timeout: float = HEARTBEAT_TIMEOUT,
        allow_shutdown: bool = False,
        memory_limit: float = math.inf,
    ) -> None:
        self.info = info or {}
        self.heartbeat_timeout = heartbeat_timeout
        self.allow_shutdown = allow_shutdown
        self.clients: dict[int, ClientRecord] = {}
        self.workers: dict[int, WorkerRecord] = {}
        self.quota = Quota(memory_limit)
        self.blobs = BlobTable(self.quota)
        self.pool = WorkerPool()
        self.ready = ReadyQueue(self.pool.has_room)
        self.stopping = False
        self._next_task = 0
        self.replaced: set[int] = set()
        """Connections whose client is here again on another one: what still comes over them is void."""
        self._last_tick: float | None = None
        self._out: Outbox = []
        self.nesting = Nesting(self.ready)
        self.stream = EventStream(self.workers, self._send)
        self.data = BlobRouter(self.blobs, self.workers, self.clients, self.stream, self._send)
        self.attempts = Attempts(
            self.clients, self.workers, self.ready, self.pool, self.nesting, self.data, self.stream, self.quota,
            self._send,
        )  # fmt: skip
        self.pythons = Pythons(self.clients, self.workers, self.attempts, self._send, no_workers_seconds)
        self.holds = Holds(self._send, self.pool.update, self.data.unuse)
        self.adoption = Adoption(
            self.clients, self.workers, self.attempts, self.ready, self.pool, self.nesting, self.holds, self.stream,
            self._send,
        )  # fmt: skip
        self.idle_notices = IdleNotices(self.pool, self.nesting, self._send)
        self.news = News(self.clients, self._send)
        self.restarts = Restarts(self.workers, self._send)
        self.answers = Answers(
            self.info, self.workers, self.clients, self.ready, self.attempts, self.data, self.stream, self._send
        )
        self._from_client = self._client_table()
        self._from_worker = self._worker_table()

    # --- the door ---

    def handle(self, event: Event, now: float) -> Outbox:
        """Take one event; return the messages to send.

        Args:
            now: the time in seconds, on any clock that only goes forward.

        Raises:
            ProtocolError: the peer sent what it must not send; its connection is to be closed.
        """
        self.stream.now = now
        if type(event) is Received:
            self._receive(event.peer, event.message, now)
        elif type(event) is Joined:
            (self._client_joins if event.role == "client" else self._worker_joins)(event, now)
        elif type(event) is Left:
            self.replaced.discard(event.peer)
            self._leave(event, now)
        elif type(event) is Lagging:
            self._lag(event)
        elif type(event) is Unsent:
            self._unsent(event)
        elif type(event) is Tick:
            self._tick(event, now)
        return self.take()

    def assign(self, now: float) -> Outbox:
        """Send workers all ready tasks that they can take; return the messages to send.

        To be called after each event, or once after several.
        """
        self.news.tell()
        self.attempts.assign_ready(now)
        self.idle_notices.send_changes()
        self.stream.flush(now)
        return self.take()

    def recipient(self, task: int, attempt: int) -> int:
        """The client that waits for the outcome of an attempt; 0 if none does."""
        record = current_attempt(self.attempts.tasks, task, attempt)
        return record.client.peer if record is not None and isinstance(record.state, Running | Delivering) else 0

    def take(self) -> Outbox:
        """Return the messages to send that were not returned yet; there are some only after an error."""
        out, self._out = self._out, []
        return out

    def _send(self, peer: int, message: m.Message) -> None:
        self._out.append((peer, message))

    def _receive(self, peer: int, message: m.Message, now: float) -> None:
        worker = self.workers.get(peer)
        if worker is not None:
            worker.seen = now
            handler = self._from_worker.get(type(message))
            if handler is None:
                raise ProtocolError(f"a worker may not send {type(message).__name__}")
            if not self.holds.keep(worker, message):
                handler(worker, message)
            return
        client = self.clients.get(peer)
        if client is None and peer in self.replaced:
            return
        if client is None:
            raise ProtocolError(f"{type(message).__name__} from a peer that has not joined")
        command = self._from_client.get(type(message))
        if command is None:
            raise ProtocolError(f"a client may not send {type(message).__name__}")
        command(client, message)

    def _client_table(self) -> dict[type[Any], Callable[[ClientRecord, Any], None]]:
        """What is done with each message that a client may send."""
        return {
            m.PutBlob: self._put_blob,
            m.OfferBlob: self._offer_blob,
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
            m.Resubmitted: lambda client, message: self.holds.stop_others(client),
            m.Restart: self.restarts.ask,
            m.RanInline: self._ran_inline,
            **self.answers.handlers(),
            m.Shutdown: self._shutdown,
        }

    def _worker_table(self) -> dict[type[Any], Callable[[WorkerRecord, Any], None]]:
        """What is done with each message that a worker may send."""
        return {
            m.Done: self.attempts.done,
            m.Failed: self.attempts.failed,
            m.Died: self.attempts.died,
            m.Stopped: self.attempts.stopped,
            m.GaveBack: self.attempts.gave_back,
            m.CallDone: self.attempts.call_done,
            m.CallFailed: self.attempts.call_failed,
            m.WantBlobs: self.attempts.want_blobs,
            m.OfferResult: self.attempts.offer_result,
            m.Waiting: self.nesting.waiting,
            m.Resumed: self.nesting.resumed,
            m.Output: self._output,
            m.TaskMessage: self._task_message,
            m.Heartbeat: self._heartbeat,
            m.Resized: self._resized,
            m.Restarted: self.restarts.done,
            m.Answer: self.answers.logs.answered,
            Activity: self.stream.activity,
            m.HaveBlob: self.data.have,
            m.FetchFailed: self.data.failed,
            m.FetchChunk: self.data.chunk_wanted,
            m.Chunk: self.data.result_chunk,
            m.NoBlob: self.data.result_chunk,
        }

    # --- peers join and leave ---

    def _client_joins(self, event: Joined, now: float) -> None:
        client = self.holds.without_keys_of_others(client_of(event), self.clients.values())
        for other in list(self.clients.values()):
            if other.keys and other.keys[0] in client.keys[1:]:
                self.replaced.add(other.peer)
                self._leave(Left(other.peer, "it has connected again", cut=True), now)
        if client.keys and any(client.keys[0] in other.keys for other in self.clients.values()):
            client.keys = ()
        self.clients[event.peer] = client
        self.stream.client_joined(client)
        workers = [m.WorkerRow(w.address, w.name, w.slots, w.versions) for w in self.workers.values()]
        self._send(event.peer, m.Workers(workers[:MAX_ROWS]))
        self._out += [(event.peer, m.WorkerChanged(*row)) for row in workers[MAX_ROWS:]]
        self.pythons.check([client])
        for worker in self.workers.values():
            self.pythons.note(worker, client)

    def _worker_joins(self, event: Joined, now: float) -> None:
        worker, holds, ended = worker_of(event, now)
        self.stream.machine_joined(worker)
        old = self.adoption.take_over(worker, holds, ended, now)
        if old is not None:
            self._leave(Left(old.peer, "it has joined again"), now)
        self.workers[event.peer] = worker
        self.data.join(worker)
        self.pool.update(worker)
        self._slots_changed(worker, worker.slots)
        for client in self.clients.values():
            self.pythons.note(worker, client)

    def _leave(self, event: Left, now: float) -> None:
        worker = self.workers.pop(event.peer, None)
        if worker is not None:
            self._lose_worker(worker, event.reason)
        client = self.clients.pop(event.peer, None)
        if client is not None:
            self.idle_notices.lose_client(client)
            self.restarts.lose_client(client)
            self.answers.logs.lose_client(client)
            if event.cut:
                self.adoption.hold_for(client, event.reason, now)
            self.attempts.lose_client(client)
            self.quota.drop(client.peer, RECORD_BYTES * len(client.groups))
            self.data.leave(client)
            self.stream.client_left(client, event.reason)

    def _lag(self, event: Lagging) -> None:
        """Begin no more tasks of a client that does not read: their results would pile up here.

        A worker that does not read is given none. The client of a slot is not held back: what it has to
        read is for a task that may run other tasks meanwhile.
        """
        worker = self.workers.get(event.peer)
        if worker is not None:
            worker.lags = event.lags
            self.pool.update(worker)
        client = self.clients.get(event.peer)
        if client is not None and not client.nested and client.lags is not event.lags:
            client.lags = event.lags
            (self.ready.hold if client.lags else self.ready.go_on)(client)

    def _unsent(self, event: Unsent) -> None:
        """End what a message was about that cannot be sent: one task, blob or question, and never the connection."""
        peer, message, text = event
        what = f"its {type(message).__name__} cannot be sent: {text}"
        match message:
            case m.Run():
                self.attempts.cannot_run(message, what)
            case m.TaskDone() | m.TaskRaised() | m.TaskLost():
                self._send(peer, m.TaskLost(message.task, m.Reason.SERIALIZATION, what))
            case m.PutBlob(blob) | m.NeedBlob(blob):
                self._send(peer, m.BlobLost(blob, what))
            case m.Answer(request):
                self._send(peer, m.Answer(request, {"error": what}))

    def _lose_worker(self, worker: WorkerRecord, reason: str) -> None:
        again = sum(not isinstance(task.state, Cancelled) for task in worker.tasks.values())
        self.stream.machine_left(worker, reason, 0 if self.stopping else again)
        self.data.lose(worker)
        self.holds.lose_worker(worker)
        self.restarts.lose_worker(worker)
        self.answers.logs.lose_worker(worker)
        self.attempts.lose_worker(worker, reason)
        self._slots_changed(worker, None)

    def _slots_changed(self, worker: WorkerRecord, slots: int | None) -> None:
        self.news.add(m.WorkerChanged(worker.address, worker.name, slots, worker.versions))
        self.pythons.check(self.clients.values())

    def _tick(self, tick: Tick, now: float) -> None:
        self._discount_standstill(now)
        for peer in tick.heard & self.workers.keys():
            self.workers[peer].seen = now
        for worker in list(self.workers.values()):
            if now - worker.seen > self.heartbeat_timeout:
                silent = f"was silent for {count(self.heartbeat_timeout, 'second')}"
                self._send(worker.peer, m.Goodbye(f"this machine {silent}"))
                self._leave(Left(worker.peer, f"it {silent}"), now)
        self.attempts.overtaken.tick(self.clients.values())
        self.pythons.tick(now)
        self.holds.tick(now)
        if self.stream.on:
            self.stream.counted(self.answers.describe())

    def _discount_standstill(self, now: float) -> None:
        """Move on what is measured from, by the time in which this process stood still: paused, stopped, out of memory.

        What the others sent meanwhile may not be read yet. So their silence would be this process's own.
        """
        lost = 0.0 if self._last_tick is None else now - self._last_tick
        self._last_tick = now
        if lost > max(LEAST_STANDSTILL, min(MOST_BETWEEN_TICKS, self.heartbeat_timeout / 2)):
            for worker in self.workers.values():
                worker.seen = min(now, worker.seen + lost)
            self.pythons.discount(lost, now)

    # --- what clients ask for ---

    def _put_blob(self, client: ClientRecord, message: m.PutBlob) -> None:
        self.data.put(client, message)
        self.attempts.overtaken.came(client, message.blob)

    def _offer_blob(self, client: ClientRecord, message: m.OfferBlob) -> None:
        self.data.offer(client, message)
        self.attempts.overtaken.came(client, message.blob)

    def _open_group(self, client: ClientRecord, message: m.OpenGroup) -> None:
        check_group(client, message, self.quota)
        parent = self._parent(client, message) if message.parent else None
        client.groups[message.group] = GroupRecord(message.group, message.limit)
        self.quota.keep(client.peer, RECORD_BYTES)
        if client.nested:
            self.idle_notices.subscribe(client, message.group, parent)

    def _close_group(self, client: ClientRecord, message: m.CloseGroup) -> None:
        self.quota.drop(client.peer, RECORD_BYTES if client.groups.pop(message.group, None) else 0)
        self.idle_notices.unsubscribe(client, message.group)

    def _submit(self, client: ClientRecord, message: m.Submit) -> None:
        check_submission(client, message)
        group = client.groups.get(message.group) if message.group else None
        parent = self._parent(client, message) if message.parent else None
        died = self.nesting.died_before(parent, message) if parent is not None else ()
        refusal = refusal_of(client, message, group, parent, self.quota)
        if len(died) >= MAX_DEATHS:
            refusal = m.Reason.KILLED, died_too_often(died)
        if refusal is not None:
            reason, text = refusal
            self._send(client.peer, m.TaskLost(message.task, reason, f"task {message.name[:MAX_SHOWN]!r}: {text}"))
            return
        self._next_task += 1
        if client.task_blobs != message.blobs:
            client.task_blobs = message.blobs
        hold = self.holds.find(client, message.task)
        number = hold.task if hold is not None else self._number(client, message.task)
        # A million tasks of one function have one name: interned, it is in memory once.
        task = TaskRecord(
            number, client, message.task, sys.intern(message.name), message.priority, message.timeout,
            group, message.pin, client.task_blobs, message.payload,
            story=died, deaths=len(died), parent=parent, lease=message.lease, order=self._next_task,
            kept=self.quota.keep(client.peer, size_of(message)),
            needs=needs_of(message.resources) if message.resources else (),
        )  # fmt: skip
        self.attempts.add(task)
        if hold is None:
            self.attempts.queue(task)
        else:
            self.adoption.resume(task, hold)
            for report in hold.early:
                self._from_worker[type(report)](hold.worker, report)

    def _number(self, client: ClientRecord, number: int) -> int:
        named = client.keys and 0 < number < m.OUTLIVES
        return number_of(client.keys[0], number) if named else self._next_task

    def _parent(self, client: ClientRecord, message: m.Submit | m.RanInline | m.OpenGroup) -> TaskRecord | None:
        """The task that a message is from; None if that attempt of it is over or was stopped, or runs elsewhere.

        Its worker has told its slots its `uid`, and nobody else: so a client cannot submit in the name of a task of
        others, whose client is shown what the tasks within it print.
        """
        check_parent(message.parent)
        task = current_attempt(self.attempts.tasks, *message.parent)
        if task is None:
            return None
        state = task.state
        if type(state) is Running or (type(state) is Cancelled and not state.stopped):
            return task if state.worker.uid == client.slot_of else None
        return None

    def _cancel(self, client: ClientRecord, message: m.Cancel) -> None:
        for number in message.tasks:
            task = client.tasks.get(number)
            if task is not None:
                self.attempts.cancel(task, message.force)

    def _cancel_all(self, client: ClientRecord, message: m.CancelAll) -> None:
        for number, task in list(client.tasks.items()):
            if type(task.state) is not Cancelled and number in client.tasks:
                text = f"task {task.name!r}: it was cancelled"
                self._send(client.peer, m.TaskLost(task.number, m.Reason.CANCELLED, text))
            self.attempts.cancel(task, message.force)

    def _ran_inline(self, client: ClientRecord, message: m.RanInline) -> None:
        check_counts(message)
        if not message.parent:
            client.counts.add(message.finished, message.failed)
            self.attempts.finished += message.finished
        elif (parent := self._parent(client, message)) is not None:
            parent.root.within.add(message.finished, message.failed)

    def _shutdown(self, client: ClientRecord, message: m.Shutdown) -> None:
        if not self.allow_shutdown:
            raise ProtocolError("this cluster is not for its clients to end")
        self.stream.log(f"client {client.name} shuts the cluster down")
        self.stopping = True
        self._out += [(peer, m.Shutdown()) for peer in self.workers]

    # --- what else workers say ---

    def _output(self, worker: WorkerRecord, message: m.Output) -> None:
        client = self.clients.get(message.client)
        if client is None or not any(task.root is client for task in worker.tasks.values()):
            return  # what a worker prints that runs nothing for a client is none of the client's
        if client.forward_output and not client.lags:
            text = message.text[:MAX_OUTPUT]
            self._send(client.peer, m.TaskOutput(f"{worker.name}.{message.slot}", message.stream, text))

    def _task_message(self, worker: WorkerRecord, message: m.TaskMessage) -> None:
        task = current_attempt(worker.tasks, message.task, message.attempt)
        if task is not None and not (task.root.lags and message.channel == m.RECORDS):
            self._send(task.root.peer, m.CallerMessage(message.channel, message.payload))

    def _heartbeat(self, worker: WorkerRecord, message: m.Heartbeat) -> None:
        worker.memory = message.memory

    def _resized(self, worker: WorkerRecord, message: m.Resized) -> None:
        worker.slots = message.slots
        self.stream.machine(worker)
        self.pool.update(worker)
        self._slots_changed(worker, worker.slots)
