"""The life of a task: queued, assigned, reported, tried again, cancelled, over.

Part of `SchedulerCore`, and as pure. Each method is one thing that happens to a task, and takes its steps of the table
in `tasks.py`. Where ready tasks wait is behind doors of one line: `ready` (all but the pinned ones), `pinned`,
`nesting` (guests of lent slots).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minidask.errors import ProtocolError
from minidask.wire import messages as m
from minidask.wire.outcomes import check_outcome

from .holds import next_attempt
from .leases import Leases
from .nesting import Nesting
from .overtaken import OvertakenBlobs
from .pinned import PinnedTasks
from .placement import WorkerPool, is_direct, next_assignment, record_duration
from .quota import Quota
from .ready import ReadyQueue
from .router import BlobRouter
from .stream import EventStream
from .tasks import (
    ERROR_STEPS,
    Assignment,
    Cancelled,
    ClientRecord,
    Delivering,
    Ended,
    Ready,
    Running,
    TaskRecord,
    WorkerRecord,
    current_attempt,
)

MAX_DEATHS = 3
MAX_ATTEMPTS = 10
MAX_TEXT = 10_000
MAX_TRACEBACK = 1 << 20
LOST_BY_US = "it was lost in an error of the scheduler's own, which is in the scheduler's log; please report that"


class Attempts:
    """All tasks that are not over, by the scheduler's number.

    Args:
        clients, workers: all of them, by peer; the scheduler's own tables.
        ready: the queue of the ready tasks that no worker is pinned to.
        pool: the workers that can take a task now.
        nesting: the tree of tasks, and the slots that are lent.
        data: gets blobs to workers.
        stream: is told what happens to tasks.
        quota: notes what is kept for which client.
        send: takes each message to send, with its peer.
    """

    def __init__(
        self,
        clients: dict[int, ClientRecord],
        workers: dict[int, WorkerRecord],
        ready: ReadyQueue,
        pool: WorkerPool,
        nesting: Nesting,
        data: BlobRouter,
        stream: EventStream,
        quota: Quota,
        send: Callable[[int, m.Message], None],
    ) -> None:
        self.tasks: dict[int, TaskRecord] = {}
        self.finished = 0
        self._clients = clients
        self._workers = workers
        self._ready = ready
        self._pool = pool
        self._nesting = nesting
        self._pinned = PinnedTasks(workers, nesting)
        self._leases = Leases(ready, send)
        self.overtaken = OvertakenBlobs(self._give, send)
        self._data = data
        self._stream = stream
        self._quota = quota
        self._send = send

    # --- on the way to a worker ---

    def add(self, task: TaskRecord) -> None:
        """Take in a task that a client has submitted: enter it in all tables. It is to be queued, or adopted."""
        self.tasks[task.id] = task.client.tasks[task.number] = task
        task.counts.submitted += 1
        if task.parent is not None:
            self._nesting.add(task)
        self._data.table.use(task.blobs)
        if self._stream.on:
            self._stream.submitted(task)

    def begin(self, task: TaskRecord, worker: WorkerRecord, sent_at: float | None) -> None:
        """A worker has the current attempt of a task from now on."""
        step = "assign" if type(task.state) is Ready else "moved"
        task.move(step, Running(worker, sent_at, self._stream.now))
        worker.tasks[task.id] = task
        if self._stream.on:
            self._stream.started(task)
        if task.group is not None:
            task.group.running += 1

    def queue(self, task: TaskRecord) -> None:
        """Have a ready task wait for a worker."""
        if task.pin is None:
            self._ready.push(task)
            self._nesting.look_for_hosts(task)
            return
        refusal = self._pinned.add(task)
        if refusal is not None:
            self.lose(task, "fail", *refusal)

    def assign_ready(self, now: float) -> None:
        """Send workers as many ready tasks as they can take: pinned ones first, then guests, then all others."""
        if self._pool.grown:
            self._nesting.look_again(self._pool.take_grown())
        while (assignment := self._pinned.next_assignment()) is not None:
            self._assign(assignment, now)
        while (assignment := self._nesting.next_assignment()) is not None:
            self._assign(assignment, now)
        while (assignment := next_assignment(self._ready, self._pool, self._data.table)) is not None:
            self._assign(assignment, now)
        self._leases.ask_back(self._pinned.count)

    def _assign(self, assignment: Assignment, now: float) -> None:
        task, worker, host = assignment
        measured = worker.prefetch and host is None and is_direct(task, worker)
        self._data.give(task.blobs, worker)
        task.attempt = task.newest = next_attempt(task) if task.newest else 1
        self.begin(task, worker, now if measured else None)
        if host is not None:
            self._nesting.lend(host, task, worker)
        run = m.Run(
            task.id, task.attempt, task.root.peer, task.name, task.timeout, task.blobs,
            0 if host is None else host.id, task.lease, task.payload,
        )  # fmt: skip
        self._send(worker.peer, run)
        if task.lease:
            self._leases.add(task)
        self._pool.update(worker)

    # --- what workers report ---

    def done(self, worker: WorkerRecord, message: m.Done) -> None:
        """An attempt has returned: its task ends, and the client gets the outcome.

        Raises:
            ProtocolError: the outcome is malformed.
        """
        if len(message.payload) != 1:
            check_outcome(message)
        task = self._reported(worker, message)
        if task is not None:
            if worker.prefetch:
                record_duration(task, worker, message.duration)
            self._tell(task, m.TaskDone(task.number, message.duration, worker.name, message.payload))
            self.end(task, "done", message.duration)

    def call_done(self, worker: WorkerRecord, message: m.CallDone) -> None:
        """A call of a lease has returned; the lease goes on."""
        if len(message.payload) != 1:
            check_outcome(message)
        lease = self._lease(worker, message)
        if lease is not None:
            self._tell(lease, m.TaskDone(message.call, message.duration, worker.name, message.payload))

    def call_failed(self, worker: WorkerRecord, message: m.CallFailed) -> None:
        """A call of a lease has raised; the lease goes on."""
        check_outcome(message)
        lease = self._lease(worker, message)
        if lease is not None:
            traceback = message.traceback[-MAX_TRACEBACK:]
            self._tell(lease, m.TaskRaised(message.call, message.duration, worker.name, traceback, message.payload))

    def want_blobs(self, worker: WorkerRecord, message: m.WantBlobs) -> None:
        """A call of a lease needs blobs that its worker lacks: they are the lease's from now on."""
        lease = self._lease(worker, message)
        if lease is None:
            return
        held, wanted = lease.client.blobs, dict.fromkeys(message.blobs)
        self._give(lease, worker, [blob for blob in wanted if blob in held])
        self.overtaken.wait(lease, (blob for blob in wanted if blob not in held))

    def _give(self, lease: TaskRecord, worker: WorkerRecord, blobs: list[bytes]) -> None:
        new = sorted(set(blobs).difference(lease.blobs))
        lease.blobs = [*lease.blobs, *new]  # another list: tasks may share the old one
        self._data.table.use(new)
        self._data.give(blobs, worker)

    def _lease(self, worker: WorkerRecord, message: m.CallDone | m.CallFailed | m.WantBlobs) -> TaskRecord | None:
        """The lease that a message is about; None if that is over, or cancelled."""
        lease = current_attempt(worker.tasks, message.task, message.attempt)
        return lease if lease is not None and lease.lease and type(lease.state) is Running else None

    def failed(self, worker: WorkerRecord, message: m.Failed) -> None:
        """An attempt has raised: its task ends, and the client gets the error.

        Raises:
            ProtocolError: the outcome is malformed.
        """
        check_outcome(message)
        task = self._reported(worker, message)
        if task is not None:
            traceback = message.traceback[-MAX_TRACEBACK:]
            self._tell(task, m.TaskRaised(task.number, message.duration, worker.name, traceback, message.payload))
            self.end(task, "raised", message.duration, traceback)

    def stopped(self, worker: WorkerRecord, message: m.Stopped) -> None:
        """An attempt was stopped, or has never started: its task is lost, for the reason that the worker gives.

        If the reason is `NO_DATA`, the task is tried again: another worker may be able to fetch its data. So it is if
        the reason is `GUEST_DIED`: that is the guest's death alone. And if it is `CUT_OFF`.

        Raises:
            ProtocolError: the worker gives a reason that does not exist.
        """
        if message.reason in (m.NO_DATA, m.GUEST_DIED, m.CUT_OFF):
            what = "its data could not be had: " if message.reason == m.NO_DATA else ""
            what = f"on {worker.name} {what}{message.text[:MAX_TEXT]}"
            if message.reason == m.GUEST_DIED:
                self._nesting.guest_died(current_attempt(worker.tasks, message.task, message.attempt), what)
            task = self._reported(worker, message)
            if task is not None:
                self._try_again(task, worker, "lost", what)
            return
        if message.reason not in m.REASONS:  # before the attempt is taken off the worker: else nothing would end it
            raise ProtocolError(f"a task cannot be stopped for reason {message.reason[:MAX_TEXT]!r}")
        task = self._reported(worker, message)
        if task is not None:
            self.lose(task, "stopped", message.reason, message.text[:MAX_TEXT])

    def died(self, worker: WorkerRecord, message: m.Died) -> None:
        """The process of an attempt has ended: its task is tried again, or lost after `MAX_DEATHS` deaths."""
        task = self._reported(worker, message)
        if task is not None:
            task.deaths += 1
            what = f"on {worker.name} its process ended with {message.how} ({message.hint})"
            self._try_again(task, worker, "died", what)

    def gave_back(self, worker: WorkerRecord, message: m.GaveBack) -> None:
        """An attempt has not started: its task is ready again. That counts neither as a death nor as a try."""
        guest = message.task in worker.guests
        task = self._reported(worker, message)
        if task is not None:
            worker.congested = not guest
            self._pool.update(worker)
            self._stream.again(task, "gave_back", "no worker there was free in time")
            task.move("gave_back", Ready())
            self.queue(task)

    def offer_result(self, worker: WorkerRecord, message: m.OfferResult) -> None:
        """An attempt has returned, and its client must fetch a large buffer of the result before `Done` comes.

        The task leaves its slot and its group, and the tasks within it are cancelled. If nobody wants the outcome, the
        worker is told to remove the buffer.
        """
        task = current_attempt(worker.tasks, message.task, message.attempt)
        if task is None or type(task.state) is Cancelled:
            self._send(worker.peer, m.ResultTaken(message.blob, 0))
            return
        if type(task.state) is Running:
            self._leave_slot(task, worker)
            task.move("offer", Delivering(worker))
            worker.delivering += 1
            self._pool.update(worker)
        self._tell(task, m.ResultOffered(task.number, message.blob, message.size, worker.peer))

    def cannot_run(self, run: m.Run, text: str) -> None:
        """A worker cannot be sent an attempt: its task is lost."""
        task = current_attempt(self.tasks, run.task, run.attempt)
        if task is None or not isinstance(task.state, Running | Cancelled):
            return
        worker = task.state.worker
        self.take_off(task, worker)
        if type(task.state) is Cancelled:
            self.end(task, "end")
        else:
            self.lose(task, "stopped", m.Reason.SERIALIZATION, text)

    def lose_worker(self, worker: WorkerRecord, reason: str) -> None:
        """A worker has left, and with it its attempts: their tasks are tried again elsewhere.

        Tasks pinned to it are lost. The clients of its slots are sent away: what they wait for ends here, and if the
        worker brings its attempts to another scheduler, that must not be taken for the fault of their calls.

        Args:
            reason: why it has left, for the clients.
        """
        nests = [task.nest for task in worker.tasks.values() if task.nest is not None]
        for peer in sorted({child.client.peer for nest in nests for child in nest.children.values()}):
            self._send(peer, m.Goodbye(f"machine {worker.name} was lost: {reason}"))
        pinned = self._pinned.lose_worker(worker)
        for task in list(worker.tasks.values()):
            if type(task.state) is Ended:
                continue  # its parent, an earlier one of these, took it along
            self.take_off(task, worker)
            if type(task.state) is Cancelled:
                self.end(task, "end")
            else:
                self._try_again(task, worker, "lost", f"machine {worker.name} was lost: {reason}")
        for task in pinned:
            if type(task.state) is Ready:
                text = f"machine {worker.name}, which had to run it, has left: {reason}"
                self.lose(task, "fail", m.Reason.WORKER_LEFT, text)
        self._pool.remove(worker)

    def _reported(
        self, worker: WorkerRecord, message: m.Done | m.Failed | m.Died | m.Stopped | m.GaveBack
    ) -> TaskRecord | None:
        """Take the attempt that a report is about off its worker.

        Returns its task, whose state the caller has to change; None if the report is stale, or nobody wants the
        outcome: then the task is over.
        """
        task = current_attempt(worker.tasks, message.task, message.attempt)
        if task is None:
            return None
        worker.congested = False
        self.take_off(task, worker)
        if type(task.state) is Cancelled:
            self.end(task, "end")
            return None
        return task

    def take_off(self, task: TaskRecord, worker: WorkerRecord) -> None:
        """Take a task off its worker: the attempt is over."""
        del worker.tasks[task.id]
        if task.lease:
            self._leases.remove(task)
        if type(task.state) is Delivering:
            worker.delivering -= 1
        else:
            self._leave_slot(task, worker)
        self._pool.update(worker)

    def _leave_slot(self, task: TaskRecord, worker: WorkerRecord) -> None:
        """Free the slot of a task that runs no more, let the next one of its group run, and end the tasks within it."""
        if worker.guests:
            self._nesting.leave_slot(task, worker)
        if task.group is not None:
            task.group.running -= 1
            self._ready.unpark(task.group)
            self._nesting.look_for_hosts(task)
        if task.nest is not None:
            self._cancel_nest(task)

    def _try_again(self, task: TaskRecord, worker: WorkerRecord, step: str, what: str) -> None:
        """Queue a task whose attempt has died, with its process or its worker; lose it if it was tried often enough."""
        self._stream.again(task, step, what)
        if task.lease:
            self._tell(task, m.TaskLost(task.number, m.Reason.KILLED, what[:MAX_TEXT]))
            self.end(task, step)
            return
        task.story += (what[:MAX_TEXT],)
        task.last_worker = worker.address
        if task.deaths >= MAX_DEATHS or len(task.story) >= MAX_ATTEMPTS:
            self.lose(task, step, m.Reason.KILLED, died_too_often(task.story))
        else:
            task.move(step, Ready())
            self.queue(task)

    # --- cancelled ---

    def cancel(self, task: TaskRecord, force: bool, told: m.Reason = m.Reason.CANCELLED) -> None:
        """Cancel a task: its client wants no outcome.

        With `force`, a running attempt is stopped, with all tasks within. It is `told` that they are lost.
        """
        if force and type(task.state) is not Ready:
            self._cancel_nest(task, told)
        self._cancel_one(task, force)

    def _cancel_one(self, task: TaskRecord, force: bool) -> None:
        if type(task.state) is Ready:
            self.end(task, "cancel")
        elif type(task.state) is Delivering:  # its slot is free already: the task need not wait for the worker's word
            worker = task.state.worker
            self._send(worker.peer, m.Stop(task.id, task.attempt))
            self.take_off(task, worker)
            self.end(task, "cancel")
        if type(task.state) is Running:
            if task.id not in task.state.worker.guests:  # that of a guest tells who died, see `Nesting.guest_died`
                task.payload = []
            task.move("cancel", Cancelled(task.state.worker))
        if type(task.state) is Cancelled and force:
            task.move("stop", task.state._replace(stopped=True))
            self._send(task.state.worker.peer, m.Stop(task.id, task.attempt))

    def _cancel_nest(self, task: TaskRecord, told: m.Reason = m.Reason.CANCELLED) -> None:
        """End the tasks within a task, the innermost first: nobody else could have their outcomes.

        Without recursion, since nests may be deep. A task that was stopped is passed over, with all within it: those
        were stopped together with it, and it can submit no more. So the end of a nest takes a time linear in its size.
        """
        ancestors = [task]
        for ancestor in ancestors:
            if ancestor.nest is not None:
                self._nesting.stop_lending(ancestor)
                ancestors += [it for it in ancestor.nest.children.values() if not getattr(it.state, "stopped", False)]
        for child in reversed(ancestors[1:]):
            if type(child.state) is not Cancelled and child.client.peer in self._clients:
                self._tell(child, m.TaskLost(child.number, told, f"task {child.name!r}: its parent has ended"))
            self._cancel_one(child, force=True)
        for ancestor in ancestors:
            self._ready.forget_children(ancestor)

    def lose_client(self, client: ClientRecord) -> None:
        """A client has left, and may be back: stop all of its tasks, and tell them that they have lost theirs."""
        for task in list(client.tasks.values()):
            self.cancel(task, force=True, told=m.Reason.NO_PARENT)
        self._ready.lose_client(client)

    # --- the end ---

    def fail_ready(self, client: ClientRecord, reason: m.Reason, text: str) -> None:
        """Lose the ready tasks of a client that no worker can run.

        Tasks within tasks are left alone: they end with their parents, which may still run.
        """
        lost = [task for task in client.tasks.values() if type(task.state) is Ready and task.parent is None]
        for task in lost:
            self.lose(task, "fail", reason, text)
        self._stream.all_lost(client, len(lost), text)

    def lose(self, task: TaskRecord, step: str, reason: str, text: str) -> None:
        """End a task without an outcome of its own, and tell its client why.

        Args:
            step: the step of the table by which the task ends.
            reason: for the client's program, one of `Reason`.
            text: for people.
        """
        self._stream.lost(task, reason, text)
        self._tell(task, m.TaskLost(task.number, reason, f"task {task.name!r}: {text}"))
        self.end(task, step, text=text)

    def _tell(self, task: TaskRecord, message: m.Message) -> None:
        self._send(task.client.peer, message)

    def end(self, task: TaskRecord, step: str, seconds: float = 0.0, text: str = "") -> None:
        """End a task by a step of the table: forget it, and the blobs that only this task needed."""
        if self._stream.on:
            self._stream.ended(task, step, seconds, text)
        queued = type(task.state) is Ready
        task.move(step, Ended())
        task.payload = []
        self._quota.drop(task.client.peer, task.kept)
        if task.lease:  # it has counted while it stood for a call, and its calls are counted by the client
            task.counts.submitted -= 1
        else:
            self.finished += 1
            task.counts.finished += 1
            task.counts.failed += step in ERROR_STEPS
        del self.tasks[task.id]
        del task.client.tasks[task.number]
        self._nesting.remove(task)
        if queued and task.pin is None:
            self._ready.remove(task)
        elif queued:
            self._pinned.remove(task)
        if task.blobs:
            self._data.unuse(task.blobs)

    def settle_adrift(self) -> int:
        """Lose every task that is in no queue and on no worker, as nothing else would ever end it.

        There are such tasks only after an error of our own, in the middle of a change of state. Returns their number.
        """
        waiting = self._ready.waiting() | self._pinned.waiting()
        adrift = [task for task in self.tasks.values() if not self._has_a_place(task, waiting)]
        for task in adrift:
            self._tell(task, m.TaskLost(task.number, m.Reason.INTERNAL, f"task {task.name!r}: {LOST_BY_US}"))
            del self.tasks[task.id]
            task.client.tasks.pop(task.number, None)
            task.state = Ended()
            self._quota.drop(task.client.peer, task.kept)
            if task.lease:
                self._leases.remove(task)
            task.counts.finished += 1
            task.counts.failed += 1
            self._nesting.remove(task)
        return len(adrift)

    def _has_a_place(self, task: TaskRecord, waiting: set[int]) -> bool:
        if isinstance(task.state, Running | Delivering | Cancelled):
            worker = task.state.worker
            return worker.tasks.get(task.id) is task and self._workers.get(worker.peer) is worker
        return type(task.state) is Ready and task.id in waiting


def died_too_often(story: Sequence[str]) -> str:
    """Why a task is lost whose attempts have all died."""
    attempts = "; ".join(f"attempt {number}: {line}" for number, line in enumerate(story, 1))
    return f"it was tried {len(story)} times, and each attempt died: {attempts}"
