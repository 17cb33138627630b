"""A simple book of what clients asked for and what they and the workers were sent."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from minidask.host.versions import fits
from minidask.scheduler.amounts import free_of, suffice
from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Event, Received
from minidask.scheduler.leases import SLICE_SECONDS
from minidask.scheduler.tasks import Ready, Running, TaskRecord
from minidask.wire import messages as m

OUTCOMES = (m.TaskDone, m.TaskRaised, m.TaskLost)


def may_have(task: TaskRecord, lease: TaskRecord) -> bool:
    """Whether a task that waits may have a lease back, as the documents tell it."""
    assert isinstance(lease.state, Running)
    if not fits(task.client.python, (lease.state.worker.python,)):
        return False
    if task.lease:
        sizes = [group.running if (group := each.group) is not None else 1 for each in (lease, task)]
        return lease.group is not task.group and sizes[0] > (sizes[1] if task.group is not None else 0)
    if not suffice(free_of(lease.state.worker), task.needs):
        return False
    above = task.parent
    while above is not None:
        if above.lease and above.group is lease.group:
            return False
        above = above.parent
    return lease.client is not task.root or task.priority >= lease.priority


class Book(RuleBasedStateMachine):
    """A core, and what its peers know; each message that the core sends is checked against it.

    It has no rules: test_core_in_any_order.py adds them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.core = SchedulerCore()
        self.now = 0.0
        self.peers = 0
        self.requests = 0
        self.tasks = 0
        self.wanted: dict[int, set[int]] = {}  # client -> task numbers without an outcome
        self.limits: dict[int, dict[int, int]] = {}  # client -> group -> limit
        self.holding: dict[int, dict[int, m.Run]] = {}  # worker -> task -> the attempt it was told to run
        self.blobs: dict[int, set[bytes]] = {}  # worker -> blobs it was sent
        self.stale: list[tuple[int, m.Run]] = []
        self.fetching: dict[tuple[int, bytes], str] = {}  # worker and blob -> where it was told to fetch
        self.failed: set[tuple[int, bytes, int]] = set()
        self.undone: list[tuple[int, m.Run]] = []  # what workers have to give back for lack of data
        self.nested: dict[int, int] = {}  # worker -> the client of the tasks in its slots
        self.pythons: dict[int, str] = {}  # by worker
        self.idle: dict[int, bool] = {}  # client of a slot -> what it was told last
        self.restarts: dict[tuple[int, int], set[int]] = {}  # client and request -> workers with old slots
        self.told_to_restart: list[tuple[int, int, tuple[int, int]]] = []  # worker, its number, client and request
        self.waiting: dict[int, dict[int, int]] = {}  # worker -> task that lends its slot -> what runs there, or 0
        self.offered: set[tuple[int, int]] = set()  # worker and task whose result is being fetched
        self.asked_back: dict[tuple[int, int], float] = {}  # lease and attempt -> after how many seconds it is to end
        self.wanted_by_calls: dict[tuple[int, int], set[bytes]] = {}  # worker and lease -> blobs of the lease's calls

    def send(self, event: Event) -> None:
        self.deliver(self.core.handle(event, self.now))
        self.deliver(self.core.assign(self.now))
        while self.undone:
            worker, run = self.undone.pop()
            self.report(worker, m.Stopped(run.task, run.attempt, "no-data", "nobody has it"))

    def deliver(self, outbox: Outbox) -> None:
        for peer, message in outbox:
            if isinstance(message, OUTCOMES):
                assert message.task in self.wanted[peer], f"{message} was told twice, or after it was cancelled"
                self.wanted[peer].remove(message.task)
            elif isinstance(message, m.Run):
                assert set(message.blobs) <= self.blobs[peer], "a task came before its blobs"
                assert message.task not in self.holding[peer], "a worker was given a task that it has"
                self.holding[peer][message.task] = message
                self.offered.discard((peer, message.task))  # that was an attempt before
                if message.host:
                    assert self.waiting[peer][message.host] == 0, "a slot was used that is not lent, or is in use"
                    self.waiting[peer][message.host] = message.task
            elif isinstance(message, m.Yield):
                self.lease_asked_back(self.holding[peer][message.task], message)
            elif isinstance(message, m.Stop) and (peer, message.task) in self.offered:
                self.stale.append((peer, self.holding[peer].pop(message.task)))  # nobody waits for its word
            elif isinstance(message, m.PutBlob):
                assert message.blob not in self.blobs[peer], "a blob was sent twice"
                self.blobs[peer].add(message.blob)
            elif isinstance(message, m.NeedBlob):
                self.needed(peer, message)
            elif isinstance(message, m.BlobLost):
                self.lose_data(peer, message.blob)
            elif isinstance(message, m.ReleaseBlobs):
                held = [run for run in self.holding[peer].values() if run.task in self.core.attempts.tasks]
                needed = {blob for run in held for blob in self.needed_by(peer, run)}
                assert not needed & set(message.blobs), "a blob was dropped that a task still needs"
                self.blobs[peer] -= set(message.blobs)
                for blob in message.blobs:
                    self.fetching.pop((peer, blob), None)
            elif isinstance(message, m.Restart):
                self.told_to_restart.append((peer, message.request, next(reversed(self.restarts))))
            elif isinstance(message, m.Answer) and not message.info:
                assert not self.restarts.pop((peer, message.request)), "a client was told of fresh slots too early"
            elif isinstance(message, m.IdleSlots):
                self.idle[peer] = message.idle
            elif isinstance(message, m.Goodbye):
                self.forget_worker(peer)

    def needed_by(self, peer: int, run: m.Run) -> set[bytes]:
        return {*run.blobs, *self.wanted_by_calls.get((peer, run.task), ())}

    def lease_asked_back(self, run: m.Run, message: m.Yield) -> None:
        key = message.task, message.attempt
        assert run.lease and run[:2] == key, "what was asked back is no lease, or is over"
        assert message.after in (0.0, SLICE_SECONDS)
        assert message.after < self.asked_back.get(key, math.inf), "a lease was asked back again"
        self.asked_back[key] = message.after
        asked = [task for (task, _), after in self.asked_back.items() if after <= message.after]
        running = [self.core.attempts.tasks.get(task) for task in asked]
        waiting = len(self.core.ready) + self.core.attempts._pinned.count
        assert sum(task is not None and type(task.state) is Running for task in running) <= waiting, (
            "more leases were asked back than tasks wait"
        )

    def check_leases(self) -> None:
        """Whoever waits, and may have a lease back, has one asked for."""
        tasks = self.core.attempts.tasks
        leases = [task for task in tasks.values() if task.lease and isinstance(task.state, Running)]
        asked = [self.asked_back.get((task.id, task.attempt), math.inf) for task in tasks.values() if task.lease]
        heads: dict[Any, TaskRecord] = {}
        for task in tasks.values():
            may_begin = task.pin is None and not (task.group and task.group.full) and not task.root.lags
            if isinstance(task.state, Ready) and may_begin:
                line = task.root.peer, id(task.group), task.priority, id(task.parent), task.needs
                heads[line] = min(heads.get(line, task), task, key=lambda task: task.id)
        for task in heads.values():
            if any(may_have(task, lease) for lease in leases):
                assert min(asked) <= (SLICE_SECONDS if task.lease else 0.0), f"{task} waits, and leases go on"

    def needed(self, peer: int, message: m.NeedBlob) -> None:
        """A worker was told to fetch: from a live worker that was told of the blob before, or the scheduler."""
        source = int(message.source.rpartition(":")[2]) if message.source else 0
        assert not source or (source in self.blobs and message.blob in self.blobs[source]), "nobody is there"
        assert (peer, message.blob, source) not in self.failed, "it was told to fetch again where it could not"
        self.blobs[peer].add(message.blob)
        self.fetching[peer, message.blob] = message.source

    def lose_data(self, peer: int, blob: bytes) -> None:
        """A worker was told that it cannot have a blob: it gives back what needs it."""
        self.fetching.pop((peer, blob), None)
        self.failed = {entry for entry in self.failed if entry[:2] != (peer, blob)}
        self.blobs[peer].discard(blob)
        for (worker, _), blobs in self.wanted_by_calls.items():
            if worker == peer:
                blobs.discard(blob)  # the call alone fails
        self.undone += [(peer, run) for run in self.holding[peer].values() if blob in run.blobs]
        self.holding[peer] = {task: run for task, run in self.holding[peer].items() if blob not in run.blobs}

    def forget_worker(self, peer: int) -> None:
        self.fetching = {key: source for key, source in self.fetching.items() if key[0] != peer}
        self.holding.pop(peer, None)
        for workers in self.restarts.values():
            workers.discard(peer)
        self.blobs.pop(peer, None)
        self.waiting.pop(peer, None)

    def report(self, worker: int, message: Any) -> None:
        if worker in self.holding:
            self.send(Received(worker, message))

    def take(self, worker: int, data: st.DataObject) -> m.Run | None:
        """One of the attempts that a worker holds, which is over now."""
        held = self.holding.get(worker)
        if not held:
            return None
        run = held.pop(data.draw(st.sampled_from(sorted(held))))
        self.asked_back.pop((run.task, run.attempt), None)
        self.wanted_by_calls.pop((worker, run.task), None)
        self.stale.append((worker, run))
        lent = self.waiting[worker]
        lent.pop(run.task, None)
        if run.host in lent:
            lent[run.host] = 0
        return run
