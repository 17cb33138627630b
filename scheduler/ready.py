"""The queue of tasks that wait for a worker: fair between clients, then by priority, then by order.

    client ─► its lines, a heap by (priority, oldest task) ─► a line: the tasks of one group, priority and parent

Clients take turns: next is the one that was served the longest ago, so one that comes does not wait for a turn of
those that have queued much. A line is in order of age without sorting, so a task costs the same behind a
million others. The line of a group that may run no more at once is parked with its group as a whole, and comes
back when one of the group's tasks ends. Cancelled tasks are skipped when met, and swept out when they are
the larger part. Tasks within tasks take the turns of the client behind them all.
"""

from __future__ import annotations

import bisect
import collections
import heapq
from collections.abc import Collection
from dataclasses import dataclass, field

from minidask.host.versions import fits

from .tasks import ClientRecord, GroupRecord, Ready, TaskRecord

Entry = tuple[int, int, "Line"]
Key = tuple[int, int, int]
SWEEP_FROM = 64
ANY = ("",)
"""The Pythons of workers that take all."""


@dataclass(slots=True, eq=False)
class Line:
    """Tasks of one client that share a group, a priority and a parent, oldest first; `waste` of them are cancelled."""

    peer: int
    key: Key
    group: GroupRecord | None
    priority: int
    parent: TaskRecord | None
    python: str = ""
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
        self._lines: dict[int, dict[Key, Line]] = {}
        self._heaps: dict[int, list[Entry]] = {}  # by client; the first in the dict is the next to take a turn
        self._live: dict[int, int] = {}
        self._within: dict[int, list[Line]] = {}  # by task: the lines of what it has submitted
        self._turns: dict[int, int] = {}  # by client: when it was last served, counted in turns
        self._turn = 0

    def __len__(self) -> int:
        return sum(self._live.values())

    def count(self, client: ClientRecord) -> int:
        """How many tasks of this client wait, with parked ones and those within tasks."""
        return self._live.get(client.peer, 0)

    def peers(self) -> set[int]:
        """The clients that the queue knows of."""
        return self._lines.keys() | self._heaps.keys() | self._live.keys() | self._turns.keys()

    def push(self, task: TaskRecord) -> None:
        """Queue a task; one that comes back takes its old place."""
        peer, key = task.root.peer, _key(task)
        self._live[peer] = self._live.get(peer, 0) + 1
        lines = self._lines.setdefault(peer, {})
        line = lines.get(key)
        if line is None:
            line = lines[key] = Line(peer, key, task.group, task.priority, task.parent, task.client.python)
            line.tasks.append(task)
            if task.parent is not None:
                self._within.setdefault(task.parent.id, []).append(line)
            heapq.heappush(self._heap(peer), line.entry)
        elif not line.tasks or task.id > line.tasks[-1].id:
            line.tasks.append(task)
        else:
            line.tasks.insert(bisect.bisect(line.tasks, task.id, key=_id), task)
            if line.tasks[0] is task:
                self._sort(peer)

    def _heap(self, peer: int) -> list[Entry]:
        """The client's lines; one that had none takes its place among those that wait for their turn."""
        if peer not in self._heaps:
            self._heaps[peer] = []
            if len(self._heaps) > 1:
                self._heaps = dict(sorted(self._heaps.items(), key=lambda item: self._turns.get(item[0], 0)))
        return self._heaps[peer]

    def _sort(self, peer: int) -> None:
        """The head of one of the client's lines has become an older one: put the heap in order again."""
        heap = self._heaps.get(peer, [])
        heap[:] = [entry[2].entry if entry[2].tasks else entry for entry in heap]
        heapq.heapify(heap)

    def peek(self, pythons: Collection[str] = ANY) -> TaskRecord | None:
        """The next task that may run now, left where it is; None if there is none.

        Args:
            pythons: those of the workers that could take it.
        """
        for peer in list(self._heaps):
            line = self._next_line(peer, pythons)
            if line is not None:
                return line.tasks[0]
        return None

    def pop(self, pythons: Collection[str] = ANY) -> TaskRecord | None:
        """As `peek`, but take it out. Its client's turn is over."""
        for peer in list(self._heaps):
            line = self._next_line(peer, pythons)
            if line is not None:
                task = line.tasks.popleft()
                self._live[peer] -= 1
                if self._heaps[peer][0][2] is line:
                    self._advance(line)
                else:
                    self._let_stand(line)
                self._turn += 1
                self._turns[peer] = self._turn
                if peer in self._heaps:
                    self._heaps[peer] = self._heaps.pop(peer)
                return task
        return None

    def pop_child(self, parent: TaskRecord) -> TaskRecord | None:
        """Take out the next of a task's own children that may run now; None if there is none."""
        line = self._child_line(parent)
        if line is None:
            return None
        task = line.tasks.popleft()
        self._live[line.peer] -= 1
        self._let_stand(line)
        return task

    def _child_line(self, parent: TaskRecord) -> Line | None:
        lines = self._within.get(parent.id, ())
        for line in lines:
            line.strip()
        open_lines = [line for line in lines if line.tasks and not (line.group is not None and line.group.full)]
        return min(open_lines, key=lambda line: line.entry, default=None)

    def _let_stand(self, line: Line) -> None:
        """A line whose turn it was not has lost its head: its place in the heap is put right when it is met there."""
        line.strip()
        if not line.tasks:
            self._discard(line)

    def forget_children(self, parent: TaskRecord) -> None:
        """None of a task's children will come any more, and none waits."""
        for line in list(self._within.get(parent.id, ())):
            self._discard(line)

    def _discard(self, line: Line) -> None:
        """Take out a line that need not have come to its turn."""
        self._drop(line)
        heap = self._heaps.get(line.peer)
        if heap is not None:
            heap[:] = [entry for entry in heap if entry[2] is not line]
            heapq.heapify(heap)
            if not heap:
                del self._heaps[line.peer]

    def _next_line(self, peer: int, pythons: Collection[str]) -> Line | None:
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
            elif line.python in pythons or fits(line.python, pythons):
                return line
            else:
                return self._other_line(heap, pythons)
        return None

    def _other_line(self, heap: list[Entry], pythons: Collection[str]) -> Line | None:
        """The same of those that these Pythons can run: a client of unknown Python may have lines of several within."""
        lines = [entry[2] for entry in heap if fits(entry[2].python, pythons)]
        for line in lines:
            line.strip()
        can = [line for line in lines if line.tasks and not (line.group is not None and line.group.full)]
        return min(can, key=lambda line: line.entry, default=None)

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
        lines = self._lines.get(line.peer, {})
        if lines.get(line.key) is line:
            del lines[line.key]
            if not lines:
                del self._lines[line.peer]
        if line.parent is not None:
            siblings = self._within.get(line.parent.id, [])
            if line in siblings:
                siblings.remove(line)
            if not siblings:
                self._within.pop(line.parent.id, None)

    def unpark(self, group: GroupRecord) -> None:
        """A task of the group has ended: its lines may be taken from again."""
        parked, group.parked = group.parked, []
        for line in parked:
            line.strip()
            if line.tasks:
                heapq.heappush(self._heap(line.peer), line.entry)
            else:
                self._drop(line)

    def remove(self, task: TaskRecord) -> None:
        """A queued task left the state `Ready`; its place in the line is now waste."""
        peer = task.root.peer
        self._live[peer] -= 1
        line = self._lines[peer][_key(task)]
        line.waste += 1
        line.sweep()

    def waiting(self) -> set[int]:
        """The numbers of all tasks that wait here; for a look at the whole."""
        lines = (line for lines in self._lines.values() for line in lines.values())
        return {task.id for line in lines for task in line.tasks if type(task.state) is Ready}

    def lose_client(self, client: ClientRecord) -> None:
        """Drop all that is left of a client."""
        self._lines.pop(client.peer, None)
        self._heaps.pop(client.peer, None)
        self._live.pop(client.peer, None)
        self._turns.pop(client.peer, None)


def _key(task: TaskRecord) -> Key:
    # The group by identity: a client may use the number of a closed one again.
    return id(task.group), task.priority, 0 if task.parent is None else task.parent.id


def _id(task: TaskRecord) -> int:
    return task.id
