"""Tasks that only one worker may run. They do not wait in the queue, but for the next slot of their worker.

`Client.run` runs a function once on each machine. Such a task must not wait behind a million others, and no other
worker may take it. If its worker leaves, the task is lost: to run it elsewhere would be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

from minidask.host.versions import PYTHON, fits, mismatch
from minidask.wire.messages import Reason

from .nesting import Nesting
from .tasks import Assignment, TaskRecord, WorkerRecord


class PinnedTasks:
    """The pinned tasks that wait, by the worker that each has to run on.

    Args:
        workers: all workers, by peer; the scheduler's own table.
        nesting: knows the slots that a pinned task may borrow.
    """

    def __init__(self, workers: Mapping[int, WorkerRecord], nesting: Nesting) -> None:
        self._workers = workers
        self._nesting = nesting
        self._tasks: dict[int, dict[int, TaskRecord]] = {}  # by worker, then by number; no worker without tasks
        self._nested: dict[int, dict[int, TaskRecord]] = {}  # those of them that may borrow a slot
        self._worker_of: dict[int, int] = {}

    def add(self, task: TaskRecord) -> tuple[Reason, str] | None:
        """Have a task wait for its worker.

        Returns None, or a reason and a text if that worker is not there or cannot.
        """
        worker = next((w for w in self._workers.values() if w.address == task.pin), None)
        if worker is None:
            return Reason.WORKER_LEFT, f"there is no machine {task.pin} in the cluster"
        if not fits(task.client.python, (worker.python,)):
            where = f"{worker.name} at {worker.address}, which had to run it"
            return Reason.VERSION, mismatch(task.client.python, [(where, worker.versions[PYTHON])])
        self._tasks.setdefault(worker.peer, {})[task.id] = task
        self._worker_of[task.id] = worker.peer
        if task.parent is not None:
            self._nested.setdefault(worker.peer, {})[task.id] = task
        return None

    def remove(self, task: TaskRecord) -> None:
        """Forget a task that is over. Does nothing if it does not wait here."""
        peer = self._worker_of.pop(task.id, None)
        if peer is not None:
            for by_worker in (self._tasks, self._nested):
                tasks = by_worker.get(peer, {})
                tasks.pop(task.id, None)
                if not tasks:
                    by_worker.pop(peer, None)

    def lose_worker(self, worker: WorkerRecord) -> list[TaskRecord]:
        """Forget a worker that has left; returns the tasks that have waited for it."""
        self._nested.pop(worker.peer, None)
        tasks = list(self._tasks.pop(worker.peer, {}).values())
        for task in tasks:
            del self._worker_of[task.id]
        return tasks

    @property
    def count(self) -> int:
        """How many tasks wait here."""
        return sum(map(len, self._tasks.values())) if self._tasks else 0

    def waiting(self) -> set[int]:
        """The numbers of all tasks that wait here."""
        return {number for tasks in self._tasks.values() for number in tasks}

    def next_assignment(self) -> Assignment | None:
        """Take out the next task whose worker can run it now, in a free slot or else in a lent one.

        None if there is none.

        Without lent slots, two tasks that each wait for a task pinned to the other's worker would wait for ever.
        """
        for peer, tasks in self._tasks.items():
            worker = self._workers[peer]
            if worker.lags:
                continue
            nested = self._nested.get(peer)
            host = self._nesting.host_for(worker) if nested and worker.free <= 0 else None
            if worker.free > 0 or host is not None:
                task = next(iter((tasks if worker.free > 0 else nested or tasks).values()))
                self.remove(task)
                return task, worker, host
        return None
