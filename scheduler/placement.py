"""Which ready task goes to which worker: a decision of its own, made after each batch of events.

A free slot takes the next task. Of several workers with free slots, it goes to one that has the task's blobs, and then
to one with the largest share of free slots. Where no slot is free, a task may still be sent ahead: prefetch.

What prefetch is for
--------------------

Without it a slot idles from the end of a task until the next one comes, a round trip later. Say that both last 1 ms:

    slot        █ task 1 █           █ task 2 █           █ task 3 █
    worker               ╲ Done  Run ╱        ╲ Done  Run ╱
    scheduler             ╰─────────╯          ╰─────────╯

With one task in advance at the worker the slot goes on at once, and the next task comes while it runs:

    slot        █ task 1 █ task 2 █ task 3 █ task 4 █

How much of it
--------------

A task in advance is bound to its worker: it waits behind another one there, even if a slot elsewhere becomes free. For
a long task that costs far more than a round trip gains. So the number follows from what was measured, namely how long
tasks of this function last, and how long a round trip to this worker takes (`prefetch_depth`):

- Tasks that last ten round trips or longer are never sent ahead: the slot idles for a tenth of its time at most. Nor
  are tasks of 20 ms or longer, however slow the network: they would wait at the worker for too long.
- Of shorter tasks, as many are sent ahead as run in one round trip. That is just enough for the slot never to idle.
- Nothing is sent ahead before both are known. Over the link inside one process, a round trip takes next to nothing,
  and the worker asks for none at all: its `prefetch` is 0.

Two more rules keep mistakes small. A worker gives a task back that has waited there for 50 ms, and gets none ahead
until it has finished another one. And a client that has no task on any worker may send its first one ahead to a worker
that has others in advance, whatever the length of the task: it would otherwise wait for all of those.

What is measured: a duration is told by the worker. A round trip is the time from `Run` to `Done` without the duration,
of tasks that could start as soon as they arrived (`is_direct`).
"""

from __future__ import annotations

import itertools
import math

from minidask.host.versions import fits
from minidask.wire.messages import GIVE_BACK_SECONDS

from .amounts import free_of, suffice
from .blobs import BlobTable
from .ready import ReadyQueue
from .tasks import Assignment, Needs, Running, TaskRecord, WorkerRecord

SHORT_SECONDS = 0.02
ROUND_TRIPS = 10
MAX_AHEAD_SECONDS = 0.8 * GIVE_BACK_SECONDS  # a task that waits for longer comes back
MAX_PREFETCH = 16
SMOOTHING = 0.2
MAX_NAMES, MAX_NAME = 1000, 200
LOOK_AT = 16
AVOID_BYTES = 1 << 60

ByPython = dict[str, dict[int, WorkerRecord]]


def prefetch_depth(seconds: float | None, round_trip: float | None) -> int:
    """How many tasks a worker should have in advance for each slot, so that no slot idles for a round trip.

    Args:
        seconds: how long such a task lasts; None: not measured yet.
        round_trip: in seconds, to the worker; None: not measured yet.
    """
    if seconds is None or round_trip is None or seconds >= min(SHORT_SECONDS, ROUND_TRIPS * round_trip):
        return 0
    return min(MAX_PREFETCH, math.ceil(min(round_trip, MAX_AHEAD_SECONDS) / max(seconds, 1e-6)))


def record_duration(task: TaskRecord, worker: WorkerRecord, duration: float) -> None:
    """Record the duration of an attempt that its worker has just reported, and the round trip if that can be told.

    Both are smoothed. A round trip that is shorter than the smoothed one takes its place, as nothing but the network
    can make it short.

    Args:
        duration: in seconds, as the worker has told. Negative and infinite ones, and NaN, are ignored.
    """
    if not 0 <= duration < math.inf:
        return
    if task.group is not None:
        task.group.seconds = _smoothed(task.group.seconds, duration)
    else:
        seconds = task.client.seconds
        name = task.name[:MAX_NAME]
        if len(seconds) >= MAX_NAMES and name not in seconds:
            seconds.clear()
        seconds[name] = _smoothed(seconds.get(name), duration)
    if type(task.state) is Running and task.state.sent_at is not None:  # fetching a result takes time of its own
        latest = max(worker.seen - task.state.sent_at - duration, 0.0)
        worker.round_trip = min(latest, _smoothed(worker.round_trip, latest))


def _smoothed(old: float | None, latest: float) -> float:
    return latest if old is None else (1 - SMOOTHING) * old + SMOOTHING * latest


def is_direct(task: TaskRecord, worker: WorkerRecord) -> bool:
    """Whether a task can start as soon as it arrives at a worker: a slot is free, and all of its blobs are there."""
    return worker.free > 0 and worker.blobs.issuperset(task.blobs)


class WorkerPool:
    """The workers that can take a task now.

    Attributes:
        idle: workers with a free slot, by Python, then by peer.
        spare: workers without one that may have one more task in advance.
        grown: workers with resources, of which some may have become free since `take_grown`.

    A Python without workers has no entry. Within each, the worker that was updated the longest ago comes first.
    """

    def __init__(self) -> None:
        self.idle: ByPython = {}
        self.spare: ByPython = {}
        self.grown: dict[int, WorkerRecord] = {}

    def update(self, worker: WorkerRecord) -> None:
        """Enter a worker anew, as the last one. To be called when its tasks, its slots or `congested` have changed."""
        self.remove(worker)
        if worker.resources:
            self.grown[worker.peer] = worker
        if worker.lags:
            return
        free = worker.free
        if free > 0:
            self.idle.setdefault(worker.python, {})[worker.peer] = worker
        elif free > -worker.prefetch and worker.slots and not worker.congested:
            self.spare.setdefault(worker.python, {})[worker.peer] = worker

    def remove(self, worker: WorkerRecord) -> None:
        """Take a worker out of the pool. Does nothing if it is not there."""
        if worker.resources:
            self.grown.pop(worker.peer, None)
        for pool in (self.idle, self.spare):
            workers = pool.get(worker.python)
            if workers is not None and workers.pop(worker.peer, None) is not None:
                if not workers:
                    del pool[worker.python]
                return

    def take_grown(self) -> list[WorkerRecord]:
        """Return the workers of which some resources may have become free since the last time."""
        grown = [*self.grown.values()]
        self.grown.clear()
        return grown

    def has_room(self, python: str, needs: Needs) -> bool:
        """Whether a worker with a free slot has free what a task needs."""
        return bool(self.with_room(python, needs))

    def with_room(self, python: str, needs: Needs) -> dict[int, WorkerRecord]:
        """Return the workers with a free slot that have free what a task needs."""
        fitting = [workers for own, workers in self.idle.items() if fits(python, (own,))]
        return {
            peer: worker
            for workers in fitting
            for peer, worker in workers.items()
            if worker.resources and suffice(free_of(worker), needs)
        }


def next_assignment(ready: ReadyQueue, pool: WorkerPool, blobs: BlobTable) -> Assignment | None:
    """Take the next task out of the queue and choose its worker; None if no task can be assigned now."""
    if pool.idle:
        task = ready.pop(pool.idle)
        if task is not None:
            room = pool.with_room(task.client.python, task.needs) if task.needs else _fitting(task, pool.idle)
            return task, _pick(task, room, blobs), None
    if pool.spare:
        task = ready.peek(pool.spare)
        if task is not None:
            workers = _fitting(task, pool.spare)
            fit = _can_prefetch(task, workers)
            if not fit and task.root.unfinished == ready.count(task.root):
                fit = _already_prefetching(workers)
            if fit:
                ready.pop(pool.spare)
                return task, _pick(task, fit, blobs), None
    return None


def _fitting(task: TaskRecord, workers: ByPython) -> dict[int, WorkerRecord]:
    """The workers whose Python loads the task's pickle; the caller has seen that there is one."""
    if len(workers) == 1:
        return next(iter(workers.values()))
    python = task.client.python
    if python in workers and "" not in workers and python:
        return workers[python]
    return {peer: w for own, some in workers.items() if fits(python, (own,)) for peer, w in some.items()}


def _can_prefetch(task: TaskRecord, workers: dict[int, WorkerRecord]) -> dict[int, WorkerRecord]:
    """The workers that have too few tasks in advance, for tasks as short as this one.

    Only some are looked at, the last updated first: a task of theirs has just ended.
    """
    seconds = task.client.seconds.get(task.name[:MAX_NAME]) if task.group is None else task.group.seconds
    if seconds is None or seconds >= SHORT_SECONDS:
        return {}
    some = itertools.islice(reversed(workers.items()), LOOK_AT)
    return {
        peer: worker
        for peer, worker in some
        if -worker.free < worker.slots * prefetch_depth(seconds, worker.round_trip)
    }


def _already_prefetching(workers: dict[int, WorkerRecord]) -> dict[int, WorkerRecord]:
    """The workers that have tasks in advance; some of the last updated are looked at."""
    some = itertools.islice(reversed(workers.items()), LOOK_AT)
    return {peer: worker for peer, worker in some if worker.free < 0}


def _pick(task: TaskRecord, workers: dict[int, WorkerRecord], blobs: BlobTable) -> WorkerRecord:
    """The worker that did not fail at the task last time, has its blobs, is the least busy, and has waited longest.

    Only the first LOOK_AT are looked at, so that a choice costs the same in a large cluster. That is good enough: no
    task waits for a worker that has its blobs anyway.
    """
    first = next(iter(workers.values()))
    if len(workers) == 1 or (not first.tasks and _misfit(task, first, blobs) == 0):
        return first
    some = itertools.islice(workers.values(), LOOK_AT)
    return min(some, key=lambda worker: (_misfit(task, worker, blobs), -worker.free / worker.slots))


def _misfit(task: TaskRecord, worker: WorkerRecord, blobs: BlobTable) -> int:
    """How badly a task and a worker go together: the bytes to send, and AVOID_BYTES if its last attempt died there."""
    failed = task.last_worker is not None and task.last_worker == worker.address
    return sum(blobs.size(blob) for blob in task.blobs if blob not in worker.blobs) + (AVOID_BYTES if failed else 0)
