"""The scheduler's decisions, and nothing else: no sockets, no clock, no bytes of a user's unpickled.

One door: `handle(event, now)` takes what happened and returns the messages to send, as `(peer, message)`.
`place(now)` then hands ready tasks to workers; the shell calls it once per batch of events. Peers are
numbers that the shell gives out. A message about an attempt that is no longer the task's current one,
or from a worker that no longer has it, is stale and is dropped by rule.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from minidask.errors import ProtocolError
from minidask.wire import messages as m

from .blobs import BlobShelf
from .describe import describe
from .distribution import Distribution
from .events import Event, Joined, Left, Received
from .nesting import Nesting
from .placement import WorkerPool, is_direct, learn, next_assignment
from .ready import ReadyQueue
from .tasks import FAILURES, Abandoned, ClientRecord, Ended, GroupRecord, Ready, Running, TaskRecord, WorkerRecord

MAX_DEATHS = 3
MAX_ATTEMPTS = 10
LOST_AFTER_SECONDS = 30.0
NO_WORKERS_SECONDS = 60.0

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
        self.tasks: dict[int, TaskRecord] = {}
        self.blobs = BlobShelf()
        self.ready = ReadyQueue()
        self.nesting = Nesting(self.ready)
        self.pool = WorkerPool()
        self._pinned: dict[int, WorkerRecord] = {}
        self._idle = False
        self._askers: dict[int, ClientRecord] = {}  # clients of slots, to be told when that changes
        self.finished = 0
        self.stopping = False
        self._next_task = 0
        self._starved_since: float | None = None
        self._out: Outbox = []
        self.data = Distribution(self.blobs, self.workers, self._send)
        self._from_client: dict[type[Any], Callable[[ClientRecord, Any], None]] = {
            m.PutBlob: self.data.put,
            m.OfferBlob: self.data.offer,
            m.ReleaseBlobs: self.data.release,
            m.BlobPart: self.data.answer,
            m.NoBlob: self.data.answer,
            m.FetchPart: self.data.result_part_wanted,
            m.ResultTaken: self.data.result_taken,
            m.OpenGroup: self._open_group,
            m.CloseGroup: self._close_group,
            m.Submit: self._submit,
            m.Cancel: self._cancel,
            m.Ask: self._answer,
            m.RanHere: self._ran_here,
            m.Shutdown: self._shutdown,
        }
        self._from_worker: dict[type[Any], Callable[[WorkerRecord, Any], None]] = {
            m.Done: self._done,
            m.Failed: self._failed,
            m.Died: self._died,
            m.Stopped: self._stopped,
            m.Returned: self._returned,
            m.Output: self._output,
            m.Heartbeat: self._heartbeat,
            m.Resized: self._resized,
            m.HaveBlob: self.data.have,
            m.FetchFailed: self.data.failed,
            m.FetchPart: self.data.part_wanted,
            m.OfferResult: self._offer_result,
            m.Waiting: self._waiting,
            m.Resumed: self._resumed,
            m.BlobPart: self.data.result_part,
            m.NoBlob: self.data.result_part,
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
        return self._take()

    def place(self, now: float) -> Outbox:
        """Give ready tasks to workers as far as they go; return the messages to send."""
        for peer in list(self._pinned):
            self._place_pinned(self._pinned[peer], now)
        while (loan := self.nesting.next_guest()) is not None:
            guest, host = loan
            assert isinstance(host.state, Running | Abandoned), "only what runs can wait"
            self._assign(guest, host.state.worker, now, host)
        while (assignment := next_assignment(self.ready, self.pool, self.blobs)) is not None:
            self._assign(*assignment, now)
        if self._idle != bool(self.pool.idle):
            self._idle = not self._idle
            self._out += [(peer, m.Idle(self._idle)) for peer in self._askers]
        return self._take()

    def _place_pinned(self, worker: WorkerRecord, now: float) -> None:
        while worker.pinned and worker.free > 0:
            task = worker.pinned.pop(0)
            if type(task.state) is Ready:
                self._assign(task, worker, now)
        for task in list(worker.pinned):
            host = self.nesting.host_of(task, worker) if type(task.state) is Ready else None
            if host is not None:
                worker.pinned.remove(task)
                self._assign(task, worker, now, host)
        if not worker.pinned:
            del self._pinned[worker.peer]

    def _send(self, peer: int, message: m.Message) -> None:
        self._out.append((peer, message))

    def _take(self) -> Outbox:
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
        info = event.info
        name = str(info.get("name") or event.address)
        if event.role == "client":
            client = ClientRecord(event.peer, name, bool(info.get("forward_output", True)), bool(info.get("nested")))
            self.clients[event.peer] = client
            self._out.append((event.peer, self._worker_list()))
            return
        slots, prefetch = info.get("slots"), info.get("prefetch", 0)
        if not isinstance(slots, int) or not isinstance(prefetch, int) or slots < 0 or prefetch < 0:
            raise ProtocolError("a worker must say how many slots it has")
        serves, place = str(info.get("serves") or ""), str(info.get("place") or "")
        worker = WorkerRecord(event.peer, event.address, name, slots, prefetch, info, now, serves, place)
        self.workers[event.peer] = worker
        self.data.join(worker)
        self.pool.update(worker)
        self._starved_since = None
        self._tell_of(worker, slots)

    def _leave(self, peer: int, reason: str) -> None:
        worker = self.workers.pop(peer, None)
        if worker is not None:
            self._lose_worker(worker, reason)
        client = self.clients.pop(peer, None)
        if client is not None:
            self._askers.pop(peer, None)
            self._lose_client(client)

    def _lose_worker(self, worker: WorkerRecord, reason: str) -> None:
        self.pool.remove(worker)
        self.data.lose(worker)
        self._pinned.pop(worker.peer, None)
        for task in list(worker.tasks.values()):
            self._unload(task, worker)
            if type(task.state) is Abandoned:
                self._end(task, "release")
            else:
                self._try_again(task, worker, "lost", f"worker {worker.name} was lost: {reason}")
        for task in worker.pinned:
            if type(task.state) is Ready:
                self._lose(
                    task, "fail", "worker-left", f"worker {worker.name}, which had to run it, has left: {reason}"
                )
        self._tell_of(worker, None)

    def _lose_client(self, client: ClientRecord) -> None:
        for task in list(client.tasks.values()):
            self._drop(task, force=True)
        self.ready.forget(client)
        self.data.leave(client)

    def _worker_list(self) -> m.Workers:
        return m.Workers([[w.address, w.name, w.slots] for w in self.workers.values()])

    def _tell_of(self, worker: WorkerRecord, slots: int | None) -> None:
        message = m.WorkerChanged(worker.address, worker.name, slots)
        self._out += [(peer, message) for peer in self.clients]

    def _tick(self, now: float) -> None:
        for worker in list(self.workers.values()):
            if now - worker.seen > LOST_AFTER_SECONDS:
                silence = f"it was silent for {LOST_AFTER_SECONDS:.0f} seconds"
                self._out.append((worker.peer, m.Goodbye(silence)))
                self._leave(worker.peer, silence)
        if not self.tasks or any(worker.slots for worker in self.workers.values()):
            self._starved_since = None
        elif self._starved_since is None:
            self._starved_since = now
        elif now - self._starved_since >= self.no_workers_seconds:
            self._starved_since = None
            text = (
                f"no worker was there to run it for {self.no_workers_seconds:.0f} seconds:"
                " start some with minidask-worker ADDRESS, on as many machines as you like"
            )
            for task in list(self.tasks.values()):
                if type(task.state) is Ready:  # others may still run on workers that are about to end
                    self._lose(task, "fail", "no-workers", text)

    # --- what clients ask for ---

    def _open_group(self, client: ClientRecord, message: m.OpenGroup) -> None:
        if message.group in client.groups or message.group <= 0 or message.limit < 0:
            raise ProtocolError(f"group {message.group} with limit {message.limit} cannot be opened")
        client.groups[message.group] = GroupRecord(message.group, message.limit)
        if client.nested:
            self._askers[client.peer] = client
            self._send(client.peer, m.Idle(self._idle))

    def _close_group(self, client: ClientRecord, message: m.CloseGroup) -> None:
        client.groups.pop(message.group, None)
        if not client.groups:
            self._askers.pop(client.peer, None)

    def _submit(self, client: ClientRecord, message: m.Submit) -> None:
        group = client.groups.get(message.group) if message.group else None
        if message.task in client.tasks or (message.group and group is None):
            raise ProtocolError(f"task {message.task} is submitted twice, or to a group that is not open")
        missing = [blob for blob in message.blobs if blob not in client.blobs]
        if missing or not message.payload:
            raise ProtocolError(f"task {message.task} has no payload, or needs blobs that the client does not hold")
        if group is not None and message.pin is not None:
            raise ProtocolError(f"task {message.task} is pinned to a worker, so it cannot be of a group")
        if message.timeout is not None and not message.timeout > 0:
            raise ProtocolError(f"task {message.task} has a timeout of {message.timeout} seconds; it must be above 0")
        parent = self._parent(message)
        if message.parent and parent is None:
            text = f"task {message.name!r}: the task that has submitted it has ended"
            self._send(client.peer, m.TaskLost(message.task, "cancelled", text))
            return
        self._next_task += 1
        if client.task_blobs != message.blobs:
            client.task_blobs = message.blobs
        task = TaskRecord(
            self._next_task, client, message.task, sys.intern(message.name), message.priority, message.timeout,
            group, message.pin, client.task_blobs, message.payload, parent=parent,
        )  # fmt: skip
        self.tasks[task.id] = client.tasks[message.task] = task
        task.counts.submitted += 1
        if task.parent is not None:
            self.nesting.born(task)
        self.blobs.use(task.blobs)
        self._queue(task)

    def _parent(self, message: m.Submit | m.RanHere) -> TaskRecord | None:
        """The task that a message is from, if that attempt of it is still wanted."""
        if len(message.parent) not in (0, 2):
            raise ProtocolError(f"a parent is named by two numbers, not {len(message.parent)}")
        number, attempt = message.parent or (0, 0)
        task = self.tasks.get(number)
        wanted = task is not None and task.attempt == attempt and type(task.state) is Running
        return task if wanted else None

    def _pin(self, task: TaskRecord) -> None:
        """A task for one worker takes no turn in the queue: it takes that worker's next free slot."""
        worker = next((w for w in self.workers.values() if w.address == task.pin), None)
        if worker is None:
            self._lose(task, "fail", "worker-left", f"there is no worker {task.pin} in the cluster")
        else:
            worker.pinned.append(task)
            self._pinned[worker.peer] = worker

    def _cancel(self, client: ClientRecord, message: m.Cancel) -> None:
        for number in message.tasks:
            task = client.tasks.get(number)
            if task is not None:
                self._drop(task, message.force)

    def _drop(self, task: TaskRecord, force: bool) -> None:
        """The client wants no outcome of this task; with `force` it is also stopped if it runs."""
        if type(task.state) is Ready:
            self._end(task, "cancel")
            return
        if type(task.state) is Running:
            task.move("abandon", Abandoned(task.state.worker, task.state.attempt))
            task.payload = []
        if force:
            self._drop_children(task)
        if type(task.state) is Abandoned and (force or task.id in task.state.worker.delivering):
            self._out.append((task.state.worker.peer, m.Stop(task.id, task.attempt)))

    def _drop_children(self, task: TaskRecord) -> None:
        """What a task has submitted ends with it: nobody else could have the outcome."""
        if task.nest is None:
            return
        self.nesting.goes_on(task)
        for child in list(task.nest.children.values()):
            if type(child.state) is not Abandoned and child.client.peer in self.clients:
                self._tell(child, m.TaskLost(child.number, "cancelled", f"task {child.name!r}: its parent has ended"))
            self._drop(child, force=True)
        self.ready.close(task)

    def _answer(self, client: ClientRecord, message: m.Ask) -> None:
        self._out.append((client.peer, m.Answer(message.request, {**describe(self), "you": client.peer})))

    def _ran_here(self, client: ClientRecord, message: m.RanHere) -> None:
        parent = self._parent(message)
        if parent is not None:
            parent.root.within.add(message.finished, message.failed)

    def _shutdown(self, client: ClientRecord, message: m.Shutdown) -> None:
        self.stopping = True
        self._out += [(peer, m.Shutdown()) for peer in self.workers]

    # --- a task's attempts ---

    def _assign(self, task: TaskRecord, worker: WorkerRecord, now: float, host: TaskRecord | None = None) -> None:
        """Have a worker run a task: in a slot of its own, or in that of the task `host`, which waits for it."""
        task.attempt += 1
        task.move("assign", Running(worker, task.attempt, now, host is None and is_direct(task, worker)))
        worker.tasks[task.id] = task
        if task.group is not None:
            task.group.running += 1
        if host is not None:
            worker.guests[task.id] = host
            self.nesting.lend(host, task)
        self.data.give(task.blobs, worker)
        run = m.Run(
            task.id, task.attempt, task.root.peer, task.name, task.timeout, task.blobs,
            0 if host is None else host.id, task.payload,
        )  # fmt: skip
        self._out.append((worker.peer, run))
        self.pool.update(worker)

    def _release(
        self, worker: WorkerRecord, message: m.Done | m.Failed | m.Died | m.Stopped | m.Returned
    ) -> TaskRecord | None:
        """Take the attempt that a message speaks of off its worker.

        None if there is nothing more to do: the message is stale, or nobody wants the outcome.
        """
        task = worker.tasks.get(message.task)
        if task is None or task.attempt != message.attempt:
            return None
        self._unload(task, worker)
        worker.congested = False
        self.pool.update(worker)
        if type(task.state) is Abandoned:
            self._end(task, "release")
            return None
        return task

    def _unload(self, task: TaskRecord, worker: WorkerRecord) -> None:
        del worker.tasks[task.id]
        self._leave_host(task, worker)
        if task.id in worker.delivering:
            worker.delivering.discard(task.id)
        else:
            self._leave_group(task)
        self._drop_children(task)

    def _leave_host(self, task: TaskRecord, worker: WorkerRecord) -> None:
        """It runs no more: the slot of the one that waits for it is that one's again."""
        host = worker.guests.pop(task.id, None)
        if host is not None:
            self.nesting.give_back(host)

    def _leave_group(self, task: TaskRecord) -> None:
        """It runs no more: the next one of its group may."""
        if task.group is not None:
            task.group.running -= 1
            self.ready.unpark(task.group)
            self.nesting.is_ready(task)

    def _offer_result(self, worker: WorkerRecord, message: m.OfferResult) -> None:
        """An attempt has returned, and its client has to fetch a large part of the result."""
        task = worker.tasks.get(message.task)
        if task is None or task.attempt != message.attempt or type(task.state) is Abandoned:
            self._send(worker.peer, m.ResultTaken(message.blob, 0))
            return
        if task.id not in worker.delivering:
            worker.delivering.add(task.id)
            self._leave_host(task, worker)
            self._leave_group(task)
            self.pool.update(worker)
        self._tell(task, m.ResultOffered(task.number, message.blob, message.size, worker.peer))

    def _done(self, worker: WorkerRecord, message: m.Done) -> None:
        learn(worker, message)
        task = self._release(worker, message)
        if task is not None:
            self._tell(task, m.TaskDone(task.number, message.duration, worker.name, message.payload))
            self._end(task, "done")

    def _failed(self, worker: WorkerRecord, message: m.Failed) -> None:
        task = self._release(worker, message)
        if task is not None:
            outcome = m.TaskRaised(task.number, message.duration, worker.name, message.traceback, message.payload)
            self._tell(task, outcome)
            self._end(task, "raised")

    def _stopped(self, worker: WorkerRecord, message: m.Stopped) -> None:
        task = self._release(worker, message)
        if task is not None:
            if message.reason not in m.REASONS:
                raise ProtocolError(f"a task cannot be stopped for reason {message.reason!r}")
            if message.reason == "no-data":
                self._try_again(task, worker, "lost", f"{worker.name} could not get its data: {message.text}")
                return
            self._lose(task, "stopped", message.reason, message.text)

    def _died(self, worker: WorkerRecord, message: m.Died) -> None:
        task = self._release(worker, message)
        if task is not None:
            task.deaths += 1
            self._try_again(
                task, worker, "died", f"on {worker.name} its process ended with {message.how} ({message.hint})"
            )

    def _returned(self, worker: WorkerRecord, message: m.Returned) -> None:
        guest = message.task in worker.guests
        task = self._release(worker, message)
        if task is not None:
            worker.congested = not guest
            self.pool.update(worker)
            task.move("returned", Ready())
            self._queue(task)

    def _waiting(self, worker: WorkerRecord, message: m.Waiting) -> None:
        task = worker.tasks.get(message.task)
        if task is not None and task.attempt == message.attempt:
            self.nesting.waits(task)

    def _resumed(self, worker: WorkerRecord, message: m.Resumed) -> None:
        task = worker.tasks.get(message.task)
        if task is not None and task.attempt == message.attempt:
            self.nesting.goes_on(task)

    def _try_again(self, task: TaskRecord, worker: WorkerRecord, step: str, what: str) -> None:
        """An attempt died with its process or its worker: queue the task again, unless it has had its chances."""
        task.story += (what,)
        task.last_worker = worker.address
        if task.deaths >= MAX_DEATHS or len(task.story) >= MAX_ATTEMPTS:
            story = "; ".join(f"attempt {number}: {line}" for number, line in enumerate(task.story, 1))
            self._lose(task, step, "killed", f"it was tried {len(task.story)} times, and each attempt died: {story}")
        else:
            task.move(step, Ready())
            self._queue(task)

    def _queue(self, task: TaskRecord) -> None:
        if task.pin is None:
            self.ready.push(task)
            self.nesting.is_ready(task)
        else:
            self._pin(task)

    def _lose(self, task: TaskRecord, step: str, reason: str, text: str) -> None:
        """End a task that has no outcome of its own."""
        self._tell(task, m.TaskLost(task.number, reason, f"task {task.name!r}: {text}"))
        self._end(task, step)

    def _tell(self, task: TaskRecord, message: m.Message) -> None:
        self._out.append((task.client.peer, message))

    def _end(self, task: TaskRecord, step: str) -> None:
        """The task is over: forget it, and what only it needed."""
        queued = type(task.state) is Ready
        task.move(step, Ended())
        task.payload = []
        self.finished += 1
        task.counts.finished += 1
        task.counts.failed += step in FAILURES
        del self.tasks[task.id]
        del task.client.tasks[task.number]
        self.nesting.ended(task)
        if queued and task.pin is None:
            self.ready.cancelled(task)
        if task.blobs:
            self.data.forget(self.blobs.unuse(task.blobs))

    # --- what else workers say ---

    def _output(self, worker: WorkerRecord, message: m.Output) -> None:
        client = self.clients.get(message.client)
        if client is not None and client.forward_output:
            self._out.append((client.peer, m.TaskOutput(f"{worker.name}.{message.slot}", message.stream, message.text)))

    def _heartbeat(self, worker: WorkerRecord, message: m.Heartbeat) -> None:
        worker.memory = message.memory

    def _resized(self, worker: WorkerRecord, message: m.Resized) -> None:
        if message.slots < 0:
            raise ProtocolError(f"a worker cannot have {message.slots} slots")
        worker.slots = message.slots
        self.pool.update(worker)
        self._tell_of(worker, worker.slots)
