"""A task's attempts: placed, running, over, tried again; and the task itself until its client has been told.

Part of `SchedulerCore`, and as pure. A message about an attempt that is no longer the task's current one, or from a
worker that no longer has it, is stale and is dropped by rule.
"""

from __future__ import annotations

from collections.abc import Callable

from minidask.errors import ProtocolError
from minidask.host.versions import PYTHON, fits, mismatch
from minidask.wire import messages as m
from minidask.wire.frames import AUTHENTICATED
from minidask.wire.large import BLOB_ID_BYTES
from minidask.wire.outcomes import check_outcome

from .nesting import Nesting
from .placement import WorkerPool, is_direct, next_assignment, record_duration
from .ready import ReadyQueue
from .router import BlobRouter
from .tasks import ERROR_STEPS, Cancelled, ClientRecord, Ended, Ready, Running, TaskRecord, WorkerRecord

MAX_DEATHS = 3
MAX_ATTEMPTS = 10
MAX_TEXT = 10_000
MAX_TRACEBACK = 1 << 20
LOST_BY_US = "it was lost in an error of the scheduler's own, which is in the scheduler's log; please report that"


class Attempts:
    """All tasks, in the queue and on workers.

    Args:
        clients, workers: all there are, by peer; the scheduler's own tables.
        data: gets blobs to workers.
        send: takes the messages to send, each with its peer.
    """

    def __init__(
        self,
        clients: dict[int, ClientRecord],
        workers: dict[int, WorkerRecord],
        data: BlobRouter,
        send: Callable[[int, m.Message], None],
    ) -> None:
        self.tasks: dict[int, TaskRecord] = {}
        self.ready = ReadyQueue()
        self.nesting = Nesting(self.ready)
        self.pool = WorkerPool()
        self.finished = 0
        self._clients = clients
        self._workers = workers
        self._data = data
        self._send = send
        self._pinned: dict[int, WorkerRecord] = {}

    # --- on the way to a worker ---

    def add(self, task: TaskRecord) -> None:
        """A client has submitted a task."""
        self.tasks[task.id] = task.client.tasks[task.number] = task
        task.counts.submitted += 1
        if task.parent is not None:
            self.nesting.born(task)
        self._data.shelf.use(task.blobs)
        self._queue(task)

    def _queue(self, task: TaskRecord) -> None:
        if task.pin is None:
            self.ready.push(task)
            self.nesting.is_ready(task)
        else:
            self._pin(task)

    def _pin(self, task: TaskRecord) -> None:
        """A task for one worker takes no turn in the queue: it takes that worker's next free slot."""
        worker = next((w for w in self._workers.values() if w.address == task.pin), None)
        if worker is None:
            self.lose(task, "fail", "worker-left", f"there is no machine {task.pin} in the cluster")
        elif not fits(task.client.python, (worker.python,)):
            where = f"{worker.name} at {worker.address}, which had to run it"
            self.lose(task, "fail", "version", mismatch(task.client.python, [(where, worker.versions[PYTHON])]))
        else:
            worker.pinned.append(task)
            self._pinned[worker.peer] = worker

    def place(self, now: float) -> None:
        """Give ready tasks to workers as far as they go."""
        for peer in list(self._pinned):
            self._place_pinned(self._pinned[peer], now)
        while (loan := self.nesting.next_guest()) is not None:
            guest, host = loan
            assert isinstance(host.state, Running | Cancelled), "only what runs can wait"
            self._assign(guest, host.state.worker, now, host)
        while (assignment := next_assignment(self.ready, self.pool, self._data.shelf)) is not None:
            self._assign(*assignment, now)

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

    def _assign(self, task: TaskRecord, worker: WorkerRecord, now: float, host: TaskRecord | None = None) -> None:
        """Have a worker run a task: in a slot of its own, or in that of the task `host`, which waits for it."""
        direct = host is None and is_direct(task, worker)
        self._data.give(task.blobs, worker)
        task.attempt += 1
        task.move("assign", Running(worker, task.attempt, now, direct))
        worker.tasks[task.id] = task
        if task.group is not None:
            task.group.running += 1
        if host is not None:
            worker.guests[task.id] = host
            self.nesting.lend(host, task)
        run = m.Run(
            task.id, task.attempt, task.root.peer, task.name, task.timeout, task.blobs,
            0 if host is None else host.id, task.payload,
        )  # fmt: skip
        self._send(worker.peer, run)
        self.pool.update(worker)

    # --- what workers say of attempts ---

    def done(self, worker: WorkerRecord, message: m.Done) -> None:
        if len(message.payload) != 1:
            check_outcome(message)
        fetched = message.task in worker.delivering
        task = self._release(worker, message)
        if task is not None:
            record_duration(task, worker, message.duration, fetched)
            self._tell(task, m.TaskDone(task.number, message.duration, worker.name, message.payload))
            self._end(task, "done")

    def failed(self, worker: WorkerRecord, message: m.Failed) -> None:
        if len(message.payload) > 1:
            check_outcome(message)
        task = self._release(worker, message)
        if task is not None:
            traceback = message.traceback[-MAX_TRACEBACK:]
            outcome = m.TaskRaised(task.number, message.duration, worker.name, traceback, message.payload)
            self._tell(task, outcome)
            self._end(task, "raised")

    def stopped(self, worker: WorkerRecord, message: m.Stopped) -> None:
        if message.reason not in m.REASONS:
            raise ProtocolError(f"a task cannot be stopped for reason {message.reason[:MAX_TEXT]!r}")
        task = self._release(worker, message)
        if task is not None:
            if message.reason == "no-data":
                self._try_again(task, worker, "lost", f"{worker.name} could not get its data: {message.text}")
                return
            self.lose(task, "stopped", message.reason, message.text[:MAX_TEXT])

    def died(self, worker: WorkerRecord, message: m.Died) -> None:
        task = self._release(worker, message)
        if task is not None:
            task.deaths += 1
            self._try_again(
                task, worker, "died", f"on {worker.name} its process ended with {message.how} ({message.hint})"
            )

    def returned(self, worker: WorkerRecord, message: m.GaveBack) -> None:
        guest = message.task in worker.guests
        task = self._release(worker, message)
        if task is not None:
            worker.congested = not guest
            self.pool.update(worker)
            task.move("returned", Ready())
            self._queue(task)

    def offer_result(self, worker: WorkerRecord, message: m.OfferResult) -> None:
        """An attempt has returned, and its client has to fetch a large part of the result."""
        if len(message.blob) != BLOB_ID_BYTES or not 0 < message.size <= AUTHENTICATED.total:
            raise ProtocolError(f"a part of a result has {message.size} bytes, under the name {message.blob[:32]!r}")
        task = worker.tasks.get(message.task)
        if task is None or task.attempt != message.attempt or type(task.state) is Cancelled:
            self._send(worker.peer, m.ResultTaken(message.blob, 0))
            return
        if task.id not in worker.delivering:
            worker.delivering.add(task.id)
            self.nesting.goes_on(task)
            self._leave_host(task, worker)
            self._leave_group(task)
            self.pool.update(worker)
        self._tell(task, m.ResultOffered(task.number, message.blob, message.size, worker.peer))

    def waiting(self, worker: WorkerRecord, message: m.Waiting) -> None:
        task = worker.tasks.get(message.task)
        if task is not None and task.attempt == message.attempt and task.id not in worker.delivering:
            self.nesting.waits(task)

    def resumed(self, worker: WorkerRecord, message: m.Resumed) -> None:
        task = worker.tasks.get(message.task)
        if task is not None and task.attempt == message.attempt:
            self.nesting.goes_on(task)

    def tell_caller(self, worker: WorkerRecord, message: m.TaskMessage) -> None:
        """A task has something for the process that holds what it was made of."""
        task = worker.tasks.get(message.task)
        if task is not None and task.attempt == message.attempt:
            self._send(task.root.peer, m.CallerMessage(message.channel, message.payload))

    def lose_worker(self, worker: WorkerRecord, reason: str) -> None:
        """A worker is gone, and its attempts are over."""
        self.pool.remove(worker)
        self._pinned.pop(worker.peer, None)
        for task in list(worker.tasks.values()):
            self._unload(task, worker)
            if type(task.state) is Cancelled:
                self._end(task, "release")
            else:
                self._try_again(task, worker, "lost", f"machine {worker.name} was lost: {reason}")
        for task in worker.pinned:
            if type(task.state) is Ready:
                self.lose(
                    task, "fail", "worker-left", f"machine {worker.name}, which had to run it, has left: {reason}"
                )

    # --- off a worker ---

    def _release(
        self, worker: WorkerRecord, message: m.Done | m.Failed | m.Died | m.Stopped | m.GaveBack
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
        if type(task.state) is Cancelled:
            self._end(task, "release")
            return None
        return task

    def _unload(self, task: TaskRecord, worker: WorkerRecord) -> None:
        del worker.tasks[task.id]
        if worker.guests:
            self._leave_host(task, worker)
        if task.id in worker.delivering:
            worker.delivering.discard(task.id)
        else:
            self._leave_group(task)
        if task.nest is not None:
            self._drop_children(task)

    def _leave_host(self, task: TaskRecord, worker: WorkerRecord) -> None:
        """It runs no more: the slot of the one that waits for it is that one's again.

        What another thread still runs on top of it is then on top of that one, or the only one in its slot.
        """
        host = worker.guests.pop(task.id, None)
        guest = task.nest.guest if task.nest is not None else None
        if host is not None:
            self.nesting.give_back(host)
        if guest is not None and task.nest is not None:
            task.nest.guest = None
            del worker.guests[guest.id]
            if host is not None:
                worker.guests[guest.id] = host
                self.nesting.lend(host, guest)

    def _leave_group(self, task: TaskRecord) -> None:
        """It runs no more: the next one of its group may."""
        if task.group is not None:
            task.group.running -= 1
            self.ready.unpark(task.group)
            self.nesting.is_ready(task)

    def _try_again(self, task: TaskRecord, worker: WorkerRecord, step: str, what: str) -> None:
        """An attempt died with its process or its worker: queue the task again, unless it has had its chances."""
        task.story += (what[:MAX_TEXT],)
        task.last_worker = worker.address
        if task.deaths >= MAX_DEATHS or len(task.story) >= MAX_ATTEMPTS:
            story = "; ".join(f"attempt {number}: {line}" for number, line in enumerate(task.story, 1))
            self.lose(task, step, "killed", f"it was tried {len(task.story)} times, and each attempt died: {story}")
        else:
            task.move(step, Ready())
            self._queue(task)

    # --- the end ---

    def drop(self, task: TaskRecord, force: bool) -> None:
        """The client wants no outcome of this task; with `force` it is also stopped if it runs."""
        if force and type(task.state) is not Ready:
            self._drop_children(task)
        self._drop_one(task, force)

    def _drop_one(self, task: TaskRecord, force: bool) -> None:
        if type(task.state) is Ready:
            self._end(task, "cancel")
            return
        if type(task.state) is Running:
            task.move("abandon", Cancelled(task.state.worker, task.state.attempt))
            task.payload = []
        if type(task.state) is Cancelled and force:
            task.move("stop", task.state._replace(stopped=True))
        if type(task.state) is Cancelled and (force or task.id in task.state.worker.delivering):
            self._send(task.state.worker.peer, m.Stop(task.id, task.attempt))

    def _drop_children(self, task: TaskRecord) -> None:
        """What a task has submitted ends with it: nobody else could have the outcome.

        All its descendants, the innermost first; without recursion: nests may be deep.
        """
        ancestors = [task]
        for ancestor in ancestors:
            if ancestor.nest is not None:
                self.nesting.goes_on(ancestor)
                ancestors += ancestor.nest.children.values()
        for child in reversed(ancestors[1:]):
            if type(child.state) is not Cancelled and child.client.peer in self._clients:
                self._tell(child, m.TaskLost(child.number, "cancelled", f"task {child.name!r}: its parent has ended"))
            self._drop_one(child, force=True)
        for ancestor in ancestors:
            self.ready.close(ancestor)

    def settle_adrift(self) -> int:
        """After a bug of ours has cut a change of state short: end every task that nothing would end any more.

        That is in no queue, or on no worker. Returns how many there were.
        """
        waiting = self.ready.waiting() | {task.id for worker in self._workers.values() for task in worker.pinned}
        adrift = [task for task in self.tasks.values() if not self._has_a_place(task, waiting)]
        for task in adrift:
            self._tell(task, m.TaskLost(task.number, "internal", f"task {task.name!r}: {LOST_BY_US}"))
            del self.tasks[task.id]
            task.client.tasks.pop(task.number, None)
            task.state = Ended()
            task.counts.finished += 1
            task.counts.failed += 1
            self.nesting.ended(task)
        return len(adrift)

    def _has_a_place(self, task: TaskRecord, waiting: set[int]) -> bool:
        if isinstance(task.state, Running | Cancelled):
            worker = task.state.worker
            return worker.tasks.get(task.id) is task and self._workers.get(worker.peer) is worker
        return type(task.state) is Ready and task.id in waiting

    def lose(self, task: TaskRecord, step: str, reason: str, text: str) -> None:
        """End a task that has no outcome of its own."""
        self._tell(task, m.TaskLost(task.number, reason, f"task {task.name!r}: {text}"))
        self._end(task, step)

    def _tell(self, task: TaskRecord, message: m.Message) -> None:
        self._send(task.client.peer, message)

    def _end(self, task: TaskRecord, step: str) -> None:
        """The task is over: forget it, and what only it needed."""
        queued = type(task.state) is Ready
        task.move(step, Ended())
        task.payload = []
        self.finished += 1
        task.counts.finished += 1
        task.counts.failed += step in ERROR_STEPS
        del self.tasks[task.id]
        del task.client.tasks[task.number]
        self.nesting.ended(task)
        if queued and task.pin is None:
            self.ready.cancelled(task)
        if task.blobs:
            self._data.forget(self._data.shelf.unuse(task.blobs))
