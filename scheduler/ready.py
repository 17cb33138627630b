"""The queue of tasks that wait for a worker: fair between clients, then by priority, then by order.

    client ─► its lines, a heap ordered by (priority, oldest task) ─► a line: the tasks of one group and priority

Clients take turns. A line is in order of age without sorting, so a task costs the same behind a
million others. The line of a group that may run no more at once is parked with its group as a whole, and comes
back when one of the group's tasks ends. Cancelled tasks are skipped when met, and swept out when they are
the larger part.
"""

from __future__ import annotations

import bisect
import collections
import heapq
from dataclasses import dataclass, field

from .tasks import ClientRecord, GroupRecord, Ready, TaskRecord

Entry = tuple[int, int, "Line"]
SWEEP_FROM = 64


@dataclass(slots=True, eq=False)
class Line:
    """Tasks of one client that share a group and a priority, oldest first; `waste` of them are cancelled."""

    peer: int
    group: GroupRecord | None
    priority: int
    tasks: collections.deque[TaskRecord] = field(default_factory=collections.deque)
    waste: int = 0

    @property
    def entry(self) -> Entry:
        """The line in its client's heap."""
        return -self.priority, self.tasks[0].id, self

    def strip(self) -> None:
        """Have a task that still waits at the head, if there is one."""
        while self.tasks and type(self.tasks[0].state) is not Ready:
            self.tasks.popleft()
            self.waste -= 1

    def sweep(self) -> None:
        if len(self.tasks) > SWEEP_FROM and 2 * self.waste > len(self.tasks):
            self.tasks = collections.deque(task for task in self.tasks if type(task.state) is Ready)
            self.waste = 0


class ReadyQueue:
    """All tasks in state `Ready` that no worker is pinned to."""

    def __init__(self) -> None:
        self._lines: dict[int, dict[tuple[int, int], Line]] = {}
        self._heaps: dict[int, list[Entry]] = {}  # by client; the first in the dict is the next to take a turn
        self._live: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(self._live.values())

    def live(self, client: ClientRecord) -> int:
        """How many tasks of this client wait, parked ones included."""
        return self._live.get(client.peer, 0)

    def peers(self) -> set[int]:
        """The clients that the queue knows of."""
        return self._lines.keys() | self._heaps.keys() | self._live.keys()

    def push(self, task: TaskRecord) -> None:
        """Queue a task; one that comes back takes its old place."""
        peer, key = task.client.peer, _key(task)
        self._live[peer] = self._live.get(peer, 0) + 1
        lines = self._lines.setdefault(peer, {})
        line = lines.get(key)
        if line is None:
            line = lines[key] = Line(peer, task.group, task.priority)
            line.tasks.append(task)
            heapq.heappush(self._heaps.setdefault(peer, []), line.entry)
        elif not line.tasks or task.id > line.tasks[-1].id:
            line.tasks.append(task)
        else:
            line.tasks.insert(bisect.bisect(line.tasks, task.id, key=_id), task)
            if line.tasks[0] is task:
                self._sort(peer)

    def _sort(self, peer: int) -> None:
        """The head of one of the client's lines has become an older one: put the heap in order again."""
        heap = self._heaps.get(peer, [])
        heap[:] = [entry[2].entry if entry[2].tasks else entry for entry in heap]
        heapq.heapify(heap)

    def peek(self) -> TaskRecord | None:
        """The next task that may run now, left where it is; None if there is none."""
        for peer in list(self._heaps):
            line = self._next_line(peer)
            if line is not None:
                return line.tasks[0]
        return None

    def pop(self) -> TaskRecord | None:
        """Take out the next task that may run now; None if there is none. Its client's turn is over."""
        for peer in list(self._heaps):
            line = self._next_line(peer)
            if line is not None:
                task = line.tasks.popleft()
                self._live[peer] -= 1
                self._advance(line)
                if peer in self._heaps:
                    self._heaps[peer] = self._heaps.pop(peer)
                return task
        return None

    def _next_line(self, peer: int) -> Line | None:
        """The client's line whose head is to run next; lines that are used up, or may not run now, are put away."""
        while peer in self._heaps:
            heap = self._heaps[peer]
            _, head, line = heap[0]
            line.strip()
            if not line.tasks or line.tasks[0].id != head:
                self._advance(line)
            elif line.group is not None and line.group.full:
                heapq.heappop(heap)
                line.group.parked.append(line)
                if not heap:
                    del self._heaps[peer]
            else:
                return line
        return None

    def _advance(self, line: Line) -> None:
        """The first of the client's lines has another head, or none."""
        heap = self._heaps[line.peer]
        line.strip()
        if line.tasks:
            heapq.heapreplace(heap, line.entry)
            return
        heapq.heappop(heap)
        self._drop(line)
        if not heap:
            del self._heaps[line.peer]

    def _drop(self, line: Line) -> None:
        lines = self._lines[line.peer]
        del lines[id(line.group), line.priority]
        if not lines:
            del self._lines[line.peer]

    def unpark(self, group: GroupRecord) -> None:
        """A task of the group has ended: its lines may be taken from again."""
        parked, group.parked = group.parked, []
        for line in parked:
            line.strip()
            if line.tasks:
                heapq.heappush(self._heaps.setdefault(line.peer, []), line.entry)
            elif line.peer in self._lines:
                self._drop(line)

    def cancelled(self, task: TaskRecord) -> None:
        """A queued task left the state `Ready`; its place in the line is now waste."""
        peer = task.client.peer
        self._live[peer] -= 1
        line = self._lines[peer][_key(task)]
        line.waste += 1
        line.sweep()

    def forget(self, client: ClientRecord) -> None:
        """Drop all that is left of a client."""
        self._lines.pop(client.peer, None)
        self._heaps.pop(client.peer, None)
        self._live.pop(client.peer, None)


def _key(task: TaskRecord) -> tuple[int, int]:
    return id(task.group), task.priority  # by identity: a client may use the number of a closed group again


def _id(task: TaskRecord) -> int:
    return task.id
