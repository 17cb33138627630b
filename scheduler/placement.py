"""Which ready task goes to which worker: a decision of its own, run once per batch of input.

A free slot takes the next task; of several, one whose worker has the task's blobs already. Where no slot is
free, a worker across the network may hold a few *short* tasks in advance, so that its slots never idle for a
round trip; long ones are never held, so that none waits behind another while a slot elsewhere is free.
"""

from __future__ import annotations

import itertools

from .blobs import BlobShelf
from .ready import ReadyQueue
from .tasks import TaskRecord, WorkerRecord

SHORT_SECONDS = 0.005
LOOK_AT = 16
FAILED = 1 << 60


class WorkerPool:
    """The workers that can take a task now: `idle` ones have a free slot, `spare` ones room to prefetch."""

    def __init__(self) -> None:
        self.idle: dict[int, WorkerRecord] = {}
        self.spare: dict[int, WorkerRecord] = {}

    def update(self, worker: WorkerRecord) -> None:
        """Sort a worker in again after its load, slots or prefetch changed; the last updated is asked last."""
        self.remove(worker)
        if worker.free > 0:
            self.idle[worker.peer] = worker
        elif worker.slots and not worker.congested and worker.free > -worker.prefetch:
            self.spare[worker.peer] = worker

    def remove(self, worker: WorkerRecord) -> None:
        self.idle.pop(worker.peer, None)
        self.spare.pop(worker.peer, None)


def next_assignment(ready: ReadyQueue, pool: WorkerPool, blobs: BlobShelf) -> tuple[TaskRecord, WorkerRecord] | None:
    """Choose the next task and its worker, or None if nothing can be placed now."""
    if pool.idle:
        task = ready.pop()
        return None if task is None else (task, _pick(task, pool.idle, blobs))
    if pool.spare:
        task = ready.peek()
        if task is not None and _is_short(task):
            ready.pop()
            return task, _pick(task, pool.spare, blobs)
    return None


def _is_short(task: TaskRecord) -> bool:
    return task.group is not None and task.group.seconds is not None and task.group.seconds < SHORT_SECONDS


def _pick(task: TaskRecord, workers: dict[int, WorkerRecord], blobs: BlobShelf) -> WorkerRecord:
    """The worker that has waited longest, but rather one that has the task's blobs, and did not fail at it before.

    Only a few are looked at: no task waits for a worker that has its blobs, and many workers cost no more than some.
    """
    first = next(iter(workers.values()))
    if len(workers) == 1 or _misfit(task, first, blobs) == 0:
        return first
    return min(itertools.islice(workers.values(), LOOK_AT), key=lambda worker: _misfit(task, worker, blobs))


def _misfit(task: TaskRecord, worker: WorkerRecord, blobs: BlobShelf) -> int:
    """How badly they go together: the bytes to send, and a failed attempt is worse than any number of those."""
    failed = task.last_worker is not None and task.last_worker == worker.address
    return sum(blobs.size(blob) for blob in task.blobs if blob not in worker.blobs) + (FAILED if failed else 0)
