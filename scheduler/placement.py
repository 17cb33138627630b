"""Which ready task goes to which worker: a decision of its own, run once per batch of input.

A free slot takes the next task; of several, one whose worker has the task's blobs already, and then one of the
worker with the largest share of free slots. Where no slot is free, a worker across the network may hold a few *short*
tasks in advance, so that its slots do not idle for a round trip between two of them; long ones are never held, so
that none waits behind another while a slot elsewhere is free. How short is short, and how many, follows from
what was measured: the tasks' durations, and the round trips to the worker.
"""

from __future__ import annotations

import itertools
import math

from minidask.host.versions import fits

from .blobs import BlobTable
from .ready import ReadyQueue
from .tasks import Assignment, Running, TaskRecord, WorkerRecord

SHORT_SECONDS = 0.02
ROUND_TRIPS = 10
HELD_SECONDS = 0.04  # a worker gives back what has waited 0.05 there
MAX_PREFETCH = 16
SMOOTHING = 0.2
MAX_NAMES = 1000
LOOK_AT = 16
AVOID_BYTES = 1 << 60

ByPython = dict[str, dict[int, WorkerRecord]]


def prefetch_depth(seconds: float | None, round_trip: float | None) -> int:
    """How many tasks of so many seconds a slot shall hold beyond the one that it runs; None: not measured yet.

    None of those that last ten round trips and more: without any in advance a slot idles a tenth of its time at most.
    Of the shorter ones, as many as run in the time that it takes to send the next.
    """
    if seconds is None or round_trip is None or seconds >= min(SHORT_SECONDS, ROUND_TRIPS * round_trip):
        return 0
    return min(MAX_PREFETCH, math.ceil(min(round_trip, HELD_SECONDS) / max(seconds, 1e-6)))


def record_duration(task: TaskRecord, worker: WorkerRecord, duration: float, fetched: bool) -> None:
    """Note what an attempt that its worker reports, at `worker.seen`, tells of durations and round trips.

    Args:
        fetched: whether its result had to be fetched before, which takes its time.
    """
    if not 0 <= duration < math.inf or type(task.state) is not Running:
        return
    if task.group is not None:
        task.group.seconds = _smoothed(task.group.seconds, duration)
    else:
        seconds = task.client.seconds
        if len(seconds) >= MAX_NAMES and task.name not in seconds:
            seconds.clear()
        seconds[task.name] = _smoothed(seconds.get(task.name), duration)
    if task.state.sent_at is not None and not fetched:
        latest = max(worker.seen - task.state.sent_at - duration, 0.0)
        worker.round_trip = min(latest, _smoothed(worker.round_trip, latest))


def _smoothed(old: float | None, latest: float) -> float:
    return latest if old is None else (1 - SMOOTHING) * old + SMOOTHING * latest


def is_direct(task: TaskRecord, worker: WorkerRecord) -> bool:
    """Whether nothing but the way to the worker is between a task and its start: no other task, and no data."""
    return worker.free > 0 and worker.blobs.issuperset(task.blobs)


class WorkerPool:
    """The workers that can take a task now: `idle` ones have a free slot, `spare` ones room to prefetch.

    They are kept by their Python; most clusters have one. A Python without such a worker is not there.
    """

    def __init__(self) -> None:
        self.idle: ByPython = {}
        self.spare: ByPython = {}

    def update(self, worker: WorkerRecord) -> None:
        """Sort a worker in again after its load, slots or prefetch changed; the last updated is asked last."""
        self.remove(worker)
        free = worker.free
        if free > 0:
            self.idle.setdefault(worker.python, {})[worker.peer] = worker
        elif free > -worker.prefetch and worker.slots and not worker.congested:
            self.spare.setdefault(worker.python, {})[worker.peer] = worker

    def remove(self, worker: WorkerRecord) -> None:
        for pool in (self.idle, self.spare):
            workers = pool.get(worker.python)
            if workers is not None and workers.pop(worker.peer, None) is not None:
                if not workers:
                    del pool[worker.python]
                return


def next_assignment(ready: ReadyQueue, pool: WorkerPool, blobs: BlobTable) -> Assignment | None:
    """Choose the next task and its worker, or None if nothing can be placed now."""
    if pool.idle:
        task = ready.pop(pool.idle)
        if task is not None:
            return task, _pick(task, _fitting(task, pool.idle), blobs), None
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
    """Those whose Python runs what the task's client has pickled, of which there is one at least."""
    if len(workers) == 1:
        return next(iter(workers.values()))
    python = task.client.python
    if python in workers and "" not in workers and python:
        return workers[python]
    return {peer: w for own, some in workers.items() if fits(python, (own,)) for peer, w in some.items()}


def _can_prefetch(task: TaskRecord, workers: dict[int, WorkerRecord]) -> dict[int, WorkerRecord]:
    """Those of the workers that hold too few tasks as short as this one; the last updated are looked at first."""
    seconds = task.client.seconds.get(task.name) if task.group is None else task.group.seconds
    if seconds is None or seconds >= SHORT_SECONDS:
        return {}
    some = itertools.islice(reversed(workers.items()), LOOK_AT)
    return {
        peer: worker
        for peer, worker in some
        if -worker.free < worker.slots * prefetch_depth(seconds, worker.round_trip)
    }


def _already_prefetching(workers: dict[int, WorkerRecord]) -> dict[int, WorkerRecord]:
    """Those of the workers that hold tasks in advance: the first one of a client, of any length, goes before these."""
    some = itertools.islice(reversed(workers.items()), LOOK_AT)
    return {peer: worker for peer, worker in some if worker.free < 0}


def _pick(task: TaskRecord, workers: dict[int, WorkerRecord], blobs: BlobTable) -> WorkerRecord:
    """The worker that did not fail at the task before, has its blobs, is the least busy, and has waited longest.

    Only a few are looked at: no task waits for a worker that has its blobs, and many workers cost no more than some.
    """
    first = next(iter(workers.values()))
    if len(workers) == 1 or (not first.tasks and _misfit(task, first, blobs) == 0):
        return first
    some = itertools.islice(workers.values(), LOOK_AT)
    return min(some, key=lambda worker: (_misfit(task, worker, blobs), -worker.free / worker.slots))


def _misfit(task: TaskRecord, worker: WorkerRecord, blobs: BlobTable) -> int:
    """How badly they go together: the bytes to send, and a failed attempt is worse than any number of those."""
    failed = task.last_worker is not None and task.last_worker == worker.address
    return sum(blobs.size(blob) for blob in task.blobs if blob not in worker.blobs) + (AVOID_BYTES if failed else 0)
