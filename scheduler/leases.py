"""Leases: tasks that hold a slot for the calls of one client's queue, until others need it.

The calls of a lease do not pass through the scheduler, so it cannot decide for each of them whose turn it is. It
decides when a lease has to end instead, and asks for it back with `Yield`. The slot then ends it when the call in hand
is over. So others wait for one call at most, as they do for a slot that runs tasks. The client asks for another lease
if it has more calls, and that one waits for its turn.

Who may have a lease back:

- *A task that waits* for a slot, at once. It may not if it is a task within a call of the same group: the calls of the
  group are older, and come first in any case. Nor if it is of the same client and of lower priority.
  If it needs resources, then only where these are free.
- *A lease that waits*, if its group has fewer leases than the other one. Then both end up with the same number of
  slots. Where there are more groups than slots, a lease is given back only after `SLICE_SECONDS`: to change hands costs
  as much as several short calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from minidask.host.versions import fits
from minidask.wire import messages as m

from .amounts import free_of, suffice
from .ready import Line, ReadyQueue
from .tasks import Running, TaskRecord

SLICE_SECONDS = 0.02


class Leases:
    """The leases that run.

    Args:
        ready: the queue of the ready tasks.
        send: takes each message to send, with its peer.
    """

    def __init__(self, ready: ReadyQueue, send: Callable[[int, m.Message], None]) -> None:
        self._ready = ready
        self._send = send
        self._running: dict[int, TaskRecord] = {}
        self._asked: dict[int, float] = {}  # by lease that was asked for: after how many seconds it is to end

    def add(self, lease: TaskRecord) -> None:
        """Note that a lease has been sent to a worker."""
        self._running[lease.id] = lease

    def remove(self, lease: TaskRecord) -> None:
        """Note that a lease is over."""
        self._running.pop(lease.id, None)
        self._asked.pop(lease.id, None)

    def ask_back(self, pinned: int) -> None:
        """Ask for leases that others need; to be called when all tasks are assigned that can be.

        Args:
            pinned: how many tasks wait for a slot of one certain worker.
        """
        if not self._running:
            return
        pythons = {lease.state.worker.python for lease in self._running.values() if isinstance(lease.state, Running)}
        wanted = 0
        for line in (*self._ready.open_lines(pythons), *self._ready.lines_aside()):
            task = line.tasks[0]
            leases = self._for(task)
            if task.needs:
                leases = iter(some := [lease for lease in leases if _has_room(lease, task)])
                if not some:
                    continue
            wanted += _wanted(line)
            self._ask(leases, wanted, SLICE_SECONDS if task.lease else 0.0)
        if pinned:
            self._ask(iter(self._running.values()), wanted + pinned, 0.0)

    def _ask(self, leases: Iterator[TaskRecord], wanted: int, after: float) -> None:
        asked = sum(other <= after for other in self._asked.values())
        if asked >= wanted:
            return
        for lease in sorted(leases, key=lambda lease: lease.id not in self._asked):  # rather sooner than one more
            if asked >= wanted:
                return
            if self._asked.get(lease.id, math.inf) > after and isinstance(lease.state, Running):
                self._asked[lease.id] = after
                asked += 1
                self._send(lease.state.worker.peer, m.Yield(lease.id, lease.attempt, after))

    def _for(self, task: TaskRecord) -> Iterator[TaskRecord]:
        """The leases that a ready task may have, those of the group with the most first."""
        by_size = sorted(self._running.values(), key=_size, reverse=True)
        for lease in by_size:
            if not isinstance(lease.state, Running) or not fits(task.client.python, (lease.state.worker.python,)):
                continue  # its slot would be of no use
            if task.lease:
                if lease.group is not task.group and _size(lease) > (task.group.running if task.group else 0):
                    yield lease
            elif not _is_within(task, lease) and (lease.client is not task.root or task.priority >= lease.priority):
                yield lease


def _wanted(line: Line) -> int:
    """How many slots a line could use now; one at a time, if its tasks need resources."""
    if line.tasks[0].lease or line.needs:
        return 1
    group = line.group
    return min(len(line), group.limit - group.running) if group is not None and group.limit else len(line)


def _size(lease: TaskRecord) -> int:
    return lease.group.running if lease.group is not None else 1


def _has_room(lease: TaskRecord, task: TaskRecord) -> bool:
    """Whether a task would have what it needs where a lease runs."""
    return isinstance(lease.state, Running) and suffice(free_of(lease.state.worker), task.needs)


def _is_within(task: TaskRecord, lease: TaskRecord) -> bool:
    """Whether a task is one within a call of the lease's group."""
    while task.parent is not None:
        task = task.parent
        if task.lease and task.group is lease.group:
            return True
    return False
