"""A simple book of what clients asked for and what they and the workers were sent."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Event, Received
from minidask.wire import messages as m

OUTCOMES = (m.TaskDone, m.TaskRaised, m.TaskLost)


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
                needed = {blob for run in held for blob in run.blobs}
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
        self.stale.append((worker, run))
        lent = self.waiting[worker]
        lent.pop(run.task, None)
        if run.host in lent:
            lent[run.host] = 0
        return run
