"""Attempts that another scheduler has begun, or another connection: they go on, and their tasks adopt them. Pure.

A worker that joins tells what it has been running. Of each such attempt it is decided:

    its worker has joined again, on another connection     it goes on
    its task is ready                                      the task adopts it, and is Running
    it has ended, and its task runs elsewhere              the task adopts it, and the other attempt is stopped
    nobody knows its task                                  it is a hold, and waits for its client: see `holds.py`
    its client does not want it                            it is stopped

A client that submits a task of which there is a hold has it adopted. What runs for a client that is cut off becomes
holds, for as long as it tries to come back.
"""

from __future__ import annotations

from collections.abc import Callable

from minidask.host.sizes import count
from minidask.wire import messages as m

from .attempts import Attempts
from .holds import Hold, Holds
from .nesting import Nesting
from .placement import WorkerPool
from .ready import ReadyQueue
from .stream import EventStream
from .tasks import Cancelled, ClientRecord, LetGo, Ready, Running, TaskRecord, WorkerRecord, current_attempt


class Adoption:
    """Who adopts what.

    Args:
        clients, workers: all of them, by peer; the scheduler's own tables.
        attempts: all tasks.
        ready: the queue of the ready tasks that no worker is pinned to.
        pool: the workers that can take a task now.
        nesting: the slots that are lent.
        holds: the attempts that wait for their clients.
        stream: is told what happens to tasks.
        send: takes each message to send, with its peer.
    """

    def __init__(
        self,
        clients: dict[int, ClientRecord],
        workers: dict[int, WorkerRecord],
        attempts: Attempts,
        ready: ReadyQueue,
        pool: WorkerPool,
        nesting: Nesting,
        holds: Holds,
        stream: EventStream,
        send: Callable[[int, m.Message], None],
    ) -> None:
        self._clients = clients
        self._workers = workers
        self._attempts = attempts
        self._ready = ready
        self._pool = pool
        self._nesting = nesting
        self._holds = holds
        self._stream = stream
        self._send = send

    def take_over(
        self, worker: WorkerRecord, holds: dict[int, int], ended: dict[int, int], now: float
    ) -> WorkerRecord | None:
        """Take over the attempts that a worker has brought along; those that have `ended` have an outcome.

        A client that was here before, under its earlier keys, wants nothing else once it has submitted all again.

        Returns:
            The record of the same worker's earlier connection, which is to be left; None: there is none.
        """
        stopped = 0
        old = next((old for old in self._workers.values() if worker.uid and old.uid == worker.uid), None)
        if old is not None:
            self._holds.lose_worker(old)
        present = {key: client for client in self._clients.values() for key in client.keys}
        for number, attempt in holds.items():
            if old is not None and self._move_over(number, attempt, old, worker):
                continue
            client = present.get(number // m.OUTLIVES)
            task = self._attempts.tasks.get(number) or (client.tasks.get(number % m.OUTLIVES) if client else None)
            if task is not None and self._adopts(task, attempt, has_outcome=ended.get(number) == attempt):
                self._renumber(task, number)
                self._adopt(task, worker, attempt)
                continue
            may_come = client is None or not (client.settled or number // m.OUTLIVES == client.keys[0])
            if task is None and may_come and number >= m.OUTLIVES:
                self._holds.add(worker, number, attempt, now)
            else:
                stopped += ended.get(number) != attempt  # of one that is over, its report was sent twice
                self._holds.stop(worker, number, attempt)
        if stopped:
            self._stream.log(
                f"machine {worker.name} is back; stopped there, as it runs elsewhere: {count(stopped, 'task')}"
            )
        return old

    def _adopts(self, task: TaskRecord, attempt: int, has_outcome: bool) -> bool:
        """Whether a task is to adopt an attempt of it. It then waits nowhere any more, and runs nowhere else.

        If the task's group is full, it is not: others of the group have begun in its place.
        """
        if type(task.state) is Ready and task.pin is None and task.attempt <= attempt:
            if task.group is not None and task.group.full:
                return False
            self._ready.take_out(task)
            return True
        if has_outcome and type(task.state) is Running and not task.lease and task.parent is None:
            other = task.state.worker
            other.ending[task.id, task.attempt] = task.needs
            self._send(other.peer, m.Stop(task.id, task.attempt))
            self._attempts.take_off(task, other)
            return True
        return False

    def _renumber(self, task: TaskRecord, number: int) -> None:
        """Give a task the number that it has for the worker."""
        del self._attempts.tasks[task.id]
        task.id = number
        self._attempts.tasks[number] = task

    def _adopt(self, task: TaskRecord, worker: WorkerRecord, attempt: int) -> None:
        task.attempt = attempt
        task.newest = max(task.newest, attempt)
        self._attempts.begin(task, worker, None)
        self._send(worker.peer, m.Adopted(task.id, task.attempt, task.root.peer))
        self._pool.update(worker)

    def _move_over(self, number: int, attempt: int, old: WorkerRecord, worker: WorkerRecord) -> bool:
        """A worker has joined again, and still has an attempt. Returns whether that goes on.

        It does not if it was cancelled, or has to do with a slot that is lent: a guest was lost with the connection. If
        it still waits, the worker says so again: its last word of that may be lost.
        """
        task = current_attempt(old.tasks, number, attempt)
        lent = task is not None and task.nest is not None and task.nest.guest is not None
        if task is None or type(task.state) is not Running or lent or number in old.guests:
            return False
        self._nesting.stop_lending(task)
        del old.tasks[number]
        task.move("moved", Running(worker, None, task.state.since))
        worker.tasks[number] = task
        self._stream.started(task)
        return True

    def resume(self, task: TaskRecord, hold: Hold) -> None:
        """A client has submitted a task of which there is a hold: the task adopts it."""
        self._adopt(task, hold.worker, hold.attempt)
        self._holds.adopted(hold)

    def hold_for(self, client: ClientRecord, reason: str, now: float) -> None:
        """A client is cut off: what it has running goes on for as long as it tries to come back."""
        seconds = client.returns_within
        held = self._let_go(client) if seconds else []
        self._holds.add_all(held, now + seconds, client.uid)
        others = sum(type(task.state) is not Cancelled for task in client.tasks.values())
        if held or others:
            go_on = f"tasks that go on for {count(seconds, 'second')} at most: {len(held)}"
            self._stream.log(f"client {client.name} is cut off, as {reason}; {go_on}, that are cancelled: {others}")

    def _let_go(self, client: ClientRecord) -> list[LetGo]:
        """Forget what runs for a client, without stopping it. Returns the attempts.

        Leases and tasks with tasks of their own are not among them: without their client they come to nothing.
        """
        gone: list[LetGo] = []
        for task in list(client.tasks.values()):
            nests = task.nest is not None and (task.nest.waits or task.nest.children)
            if type(task.state) is Running and task.id >= m.OUTLIVES and not nests and not task.lease:
                worker, blobs, task.blobs = task.state.worker, task.blobs, []
                self._attempts.take_off(task, worker)
                self._attempts.end(task, "held")
                gone.append((worker, task, blobs))
        return gone
