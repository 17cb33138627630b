"""The queue of ready tasks: fair between clients, then by priority, then by age.

    client ─► its lines, a heap by (priority, oldest task) ─► a line: the tasks of one group, priority and parent

- Clients take turns. Next is the one that was served the longest ago. So a client that has just come does not wait for
  the turns of those that have queued much: before its first task comes one other at most. Tasks within tasks take the
  turns of the outermost task's client.
- A line is in order of age without sorting, since tasks come in that order. So a task costs the same behind a million
  others. Only a task that comes back, after a death, has to be inserted.
- A group may have a limit of tasks that run at once. At the limit its lines are taken out of the heap as a whole and
  parked with the group, so that nobody has to skip them. They come back when one of the group's tasks ends.
- A line whose tasks need resources that no worker with a free slot has is set aside in the same way, so it holds up no
  other. It comes back when some may have become free.
- The heap of a client that lags is held aside as a whole: none of its tasks begins until the client has caught up.
- A cancelled task stays in its line and is skipped when it is met. A line with more cancelled tasks than others is
  compacted, so that a client that cancels much does not fill the memory.
"""

from __future__ import annotations

import bisect
import collections
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from minidask.host.versions import fits

from .amounts import suffice
from .tasks import Amounts, ClientRecord, GroupRecord, Needs, Ready, TaskRecord

Entry = tuple[int, int, "Line"]
Place = tuple[int, int, "Line", int]
"""An entry in the heap of a client, and the stamp of the line then: only the last one counts."""
Key = tuple[int, int, int, Needs]
COMPACT_FROM = 2
LOOK_AT = 64  # lines of one client: a client may have as many as it has priorities
ANY = ("",)
"""For `peek` and `pop`: workers that can run the tasks of any Python."""


@dataclass(slots=True, eq=False)
class Line:
    """Tasks of one client that have all but their age in common, oldest first; `cancelled` of them are over.

    It is `placed` in the heap of its client, or parked, or set aside.
    """

    peer: int
    key: Key
    group: GroupRecord | None
    priority: int
    parent: TaskRecord | None
    python: str = ""
    needs: Needs = ()
    tasks: collections.deque[TaskRecord] = field(default_factory=collections.deque)
    cancelled: int = 0
    stamp: int = 0
    placed: bool = False

    def __len__(self) -> int:
        """How many tasks wait in it."""
        return len(self.tasks) - self.cancelled

    @property
    def entry(self) -> Entry:
        """The line's entry in the heap of its client. The line must have a task."""
        return -self.priority, self.tasks[0].order, self

    def place(self) -> Place:
        """The line's entry anew, for the heap of its client; an earlier one counts no more."""
        self.stamp += 1
        self.placed = True
        return *self.entry, self.stamp

    def __lt__(self, other: Line) -> bool:
        """Any order will do: a task that was given back may meet the entry of the line that it was in before."""
        return id(self) < id(other)

    def skip_cancelled(self) -> None:
        """Remove cancelled tasks from the head of the line, up to the first one that waits."""
        while self.tasks and type(self.tasks[0].state) is not Ready:
            self.tasks.popleft()
            self.cancelled -= 1

    def compact(self) -> None:
        """Remove all cancelled tasks from a line, if they are the larger part of it."""
        if len(self.tasks) > COMPACT_FROM and 2 * self.cancelled > len(self.tasks):
            self.tasks = collections.deque(task for task in self.tasks if type(task.state) is Ready)
            self.cancelled = 0


class ReadyQueue:
    """All tasks in state `Ready`, except the pinned ones.

    Args:
        has_room: whether a worker of a Python that fits this one, with a free slot, has what a task needs.
    """

    def __init__(self, has_room: Callable[[str, Needs], bool] = lambda python, needs: False) -> None:
        self._has_room = has_room
        self._lines: dict[int, dict[Key, Line]] = {}
        self._heaps: dict[int, list[Place]] = {}  # by client; the first in the dict is the next to take a turn
        self._held: dict[int, list[Place]] = {}  # the heaps of clients that lag
        self._counts: dict[int, int] = {}
        self._pythons: dict[int, Counter[str]] = {}  # by client: how many of its lines are for each
        self._dead: dict[int, int] = {}  # by client: how many entries of its heap may be of lines that are forgotten
        self._within: dict[int, dict[Line, None]] = {}  # by task: the lines of what it has submitted
        self._children: dict[int, list[Entry]] = {}  # the same as heaps; entries of forgotten lines go when met
        self._aside: dict[int, dict[Needs, dict[Line, None]]] = {}  # by client: what waits for resources
        self._turns: dict[int, int] = {}  # by client: when it was last served, counted in turns
        self._turn = 0

    def __len__(self) -> int:
        return sum(self._counts.values())

    def count(self, client: ClientRecord) -> int:
        """How many tasks of this client wait, with parked tasks and tasks within tasks."""
        return self._counts.get(client.peer, 0)

    def peers(self) -> set[int]:
        """The numbers of all clients about which the queue keeps anything."""
        tables = (self._lines, self._heaps, self._held, self._counts, self._turns, self._aside)
        return {peer for table in tables for peer in table}

    def hold(self, client: ClientRecord) -> None:
        """Let no task of a client begin, but those within tasks that wait for them."""
        self._held[client.peer] = self._heaps.pop(client.peer, [])

    def go_on(self, client: ClientRecord) -> None:
        """Let the tasks of a client begin again."""
        heap = self._held.pop(client.peer, [])
        if heap:
            self._heap(client.peer).extend(heap)

    def push(self, task: TaskRecord) -> None:
        """Queue a task. A task that was queued before takes its old place."""
        peer, key = task.root.peer, _key(task)
        self._counts[peer] = self._counts.get(peer, 0) + 1
        lines = self._lines.setdefault(peer, {})
        line = lines.get(key)
        if line is None:
            self._pythons.setdefault(peer, Counter())[task.client.python] += 1
            line = Line(peer, key, task.group, task.priority, task.parent, task.client.python, task.needs)
            lines[key] = line
            line.tasks.append(task)
            if task.parent is not None:
                self._within.setdefault(task.parent.id, {})[line] = None
                heapq.heappush(self._children.setdefault(task.parent.id, []), line.entry)
            heapq.heappush(self._heap(peer), line.place())
        elif not line.tasks or task.order > line.tasks[-1].order:
            line.tasks.append(task)
        else:
            line.tasks.insert(bisect.bisect(line.tasks, task.order, key=_order), task)
            if line.tasks[0] is task and line.placed:
                heapq.heappush(self._heap(peer), line.place())
                self._note_dead(peer)
            if line.tasks[0] is task and task.parent is not None:
                heapq.heappush(self._children[task.parent.id], line.entry)

    def _heap(self, peer: int) -> list[Place]:
        """The heap of a client's lines.

        If the client had no lines, it takes its place among those that wait for turns.
        """
        if peer in self._held:
            return self._held[peer]
        if peer not in self._heaps:
            self._heaps[peer] = []
            if len(self._heaps) > 1:
                self._heaps = dict(sorted(self._heaps.items(), key=lambda item: self._turns.get(item[0], 0)))
        return self._heaps[peer]

    def peek(self, pythons: Collection[str] = ANY) -> TaskRecord | None:
        """The next task that may run now; it stays in the queue. None if there is none.

        Args:
            pythons: the Pythons of the workers that could take it.
        """
        for peer in list(self._heaps):
            line = self._next_line(peer, pythons)
            if line is not None:
                return line.tasks[0]
        return None

    def open_lines(self, pythons: Collection[str] = ANY) -> Iterator[Line]:
        """The first lines whose heads may run now: by the turns of the clients, and of each client the next one first.

        Args:
            pythons: the Pythons of the workers that could take them.
        """
        for peer in list(self._heaps):
            if self._next_line(peer, pythons) is not None:
                yield from self._first(self._heaps[peer], pythons)

    def lines_aside(self) -> list[Line]:
        """Some lines that wait for resources: for each kind of need of a client, the next one.

        Of kinds, and of lines of a kind, `LOOK_AT` are looked at. Clients that lag have none.
        """
        if not self._aside:
            return []
        kinds = (lines for peer, kinds in self._aside.items() if peer not in self._held for lines in kinds.values())
        found = []
        for lines in itertools.islice(kinds, LOOK_AT):
            open_lines = [line for line in itertools.islice(lines, LOOK_AT) if len(line) and not _is_full(line.group)]
            for line in open_lines:
                line.skip_cancelled()
            if open_lines:
                found.append(min(open_lines, key=lambda line: line.entry))
        return found

    def look_again(self, free: Sequence[Amounts]) -> None:
        """Put lines back that wait for resources, if one of these workers has what they need."""
        for kinds in list(self._aside.values()):
            for needs in [needs for needs in kinds if any(suffice(amounts, needs) for amounts in free)]:
                self._put_back([*kinds[needs]])

    def _set_aside(self, line: Line) -> None:
        self._aside.setdefault(line.peer, {}).setdefault(line.needs, {})[line] = None

    def _no_more_aside(self, line: Line) -> bool:
        """Forget that a line waits for resources. Returns whether it did."""
        kinds = self._aside.get(line.peer, {})
        lines = kinds.get(line.needs, {})
        if line not in lines:
            return False
        del lines[line]
        if not lines:
            del kinds[line.needs]
        if not kinds:
            del self._aside[line.peer]
        return True

    def _first(self, heap: list[Place], pythons: Collection[str]) -> Iterator[Line]:
        """The first lines of a heap that may run now, in the order of their entries: no more than `LOOK_AT` are met."""
        frontier = [(heap[0], 0)]
        for _ in range(LOOK_AT):
            if not frontier:
                return
            entry, place = heapq.heappop(frontier)
            yield from self._open([entry], pythons)
            for below in (2 * place + 1, 2 * place + 2):
                if below < len(heap):
                    heapq.heappush(frontier, (heap[below], below))

    def pop(self, pythons: Collection[str] = ANY) -> TaskRecord | None:
        """Take out the next task that may run now, and end its client's turn; None if there is none.

        Args:
            pythons: the Pythons of the workers that could take it.
        """
        for peer in list(self._heaps):
            line = self._next_line(peer, pythons)
            if line is not None:
                task = line.tasks.popleft()
                self._counts[peer] -= 1
                if self._heaps[peer][0][2] is line:
                    self._advance(line)
                else:
                    self._settle(line)
                self._turn += 1
                self._turns[peer] = self._turn
                if peer in self._heaps:
                    self._heaps[peer] = self._heaps.pop(peer)
                return task
        return None

    def pop_child(self, parent: TaskRecord, has_room: Callable[[Needs], bool]) -> TaskRecord | None:
        """Take out the next child of a task that may run now; no client's turn ends. None if there is none.

        Args:
            has_room: whether a guest that needs this could run.
        """
        line = self._child_line(parent)
        if line is not None and line.needs and not has_room(line.needs):
            others = [line for line in self._within[parent.id] if len(line) and not _is_full(line.group)]
            for line in others:
                line.skip_cancelled()
            able = [line for line in others if not line.needs or has_room(line.needs)]
            line = min(able, key=lambda line: line.entry, default=None)
        if line is None:
            return None
        task = line.tasks.popleft()
        self._counts[line.peer] -= 1
        self._settle(line)
        return task

    def _child_line(self, parent: TaskRecord) -> Line | None:
        """The line of the next child. On the way, as in `_next_line`, lines are forgotten and parked."""
        heap = self._children.get(parent.id, [])
        while heap:
            _, head, line = heap[0]
            line.skip_cancelled()
            if not line.tasks or line not in self._within.get(parent.id, ()):
                heapq.heappop(heap)
                if line in self._within.get(parent.id, ()):
                    self._remove_line(line)
            elif line.tasks[0].order != head:
                heapq.heapreplace(heap, line.entry)
            elif line.group is not None and line.group.full:
                heapq.heappop(heap)
                line.group.parked_children.append(line)
            else:
                return line
        return None

    def _settle(self, line: Line) -> None:
        """Clean up a line from which a task was taken. Its entry in the heap is corrected once that comes first."""
        line.skip_cancelled()
        if not line.tasks:
            self._remove_line(line)

    def forget_children(self, parent: TaskRecord) -> None:
        """Remove the lines of a task's children: the task has ended, and they with it."""
        for line in list(self._within.get(parent.id, ())):
            self._remove_line(line)

    def _remove_line(self, line: Line) -> None:
        """Forget a line anywhere in its heap: its entry goes when it is met, or when half of all are such."""
        self._forget_line(line)
        self._note_dead(line.peer)
        if not self._heaps.get(line.peer, True):
            del self._heaps[line.peer]

    def _note_dead(self, peer: int) -> None:
        """Note that one more entry of a client's heap counts no more; drop all such if they are the half."""
        self._dead[peer] = self._dead.get(peer, 0) + 1
        for heaps in (self._heaps, self._held):
            heap = heaps.get(peer, [])
            if heap and 2 * self._dead[peer] >= len(heap):
                heap[:] = [entry for entry in heap if self._is_known(entry[2]) and _counts(entry)]
                heapq.heapify(heap)
                self._dead[peer] = 0

    def _next_line(self, peer: int, pythons: Collection[str]) -> Line | None:
        """The client's line whose head is to run next; None if no task may run now.

        On the way, empty lines are forgotten, and lines of full groups are parked.
        """
        while peer in self._heaps:
            heap = self._heaps[peer]
            _, head, line, _ = heap[0]
            line.skip_cancelled()
            if not _counts(heap[0]):
                heapq.heappop(heap)
                if not heap:
                    del self._heaps[peer]
            elif not line.tasks or line.tasks[0].order != head or not self._is_known(line):
                self._advance(line)
            elif line.group is not None and line.group.full:
                heapq.heappop(heap)
                line.placed = False
                line.group.parked.append(line)
                if not heap:
                    del self._heaps[peer]
            elif line.needs and not self._has_room(line.python, line.needs):
                heapq.heappop(heap)
                line.placed = False
                self._set_aside(line)
                if not heap:
                    del self._heaps[peer]
            elif line.python in pythons or fits(line.python, pythons):
                return line
            else:
                return self._other_line(heap, pythons)
        return None

    def _other_line(self, heap: list[Place], pythons: Collection[str]) -> Line | None:
        """The next line that these Pythons can run; a client of unknown Python may have nested tasks of several."""
        own = self._pythons[heap[0][2].peer]
        if not any(count and fits(python, pythons) for python, count in own.items()):
            return None  # a look at all of its lines would cost others as much as it has
        lines = [
            line for line in self._open(heap, pythons) if not line.needs or self._has_room(line.python, line.needs)
        ]
        return min(lines, key=lambda line: line.entry, default=None)

    def _open(self, heap: list[Place], pythons: Collection[str]) -> list[Line]:
        lines = [entry[2] for entry in heap if fits(entry[2].python, pythons) and _counts(entry)]
        for line in lines:
            line.skip_cancelled()
        return [
            line
            for line in lines
            if line.tasks and self._is_known(line) and not (line.group is not None and line.group.full)
        ]

    def _advance(self, line: Line) -> None:
        """Correct the first entry of a heap, whose line has another head or none."""
        heap = self._heaps[line.peer]
        line.skip_cancelled()
        if line.tasks and self._is_known(line):
            heapq.heapreplace(heap, line.place())
            return
        heapq.heappop(heap)
        self._forget_line(line)
        if not heap:
            del self._heaps[line.peer]

    def _is_known(self, line: Line) -> bool:
        return self._lines.get(line.peer, {}).get(line.key) is line

    def _forget_line(self, line: Line) -> None:
        lines = self._lines.get(line.peer, {})
        if line.needs:
            self._no_more_aside(line)
        if lines.get(line.key) is line:
            del lines[line.key]
            self._pythons[line.peer][line.python] -= 1
            if not lines:
                del self._lines[line.peer]
                del self._pythons[line.peer]
        if line.parent is not None:
            siblings = self._within.get(line.parent.id, {})
            siblings.pop(line, None)
            if not siblings:
                self._within.pop(line.parent.id, None)
                self._children.pop(line.parent.id, None)

    def unpark(self, group: GroupRecord) -> None:
        """Put the lines of a group back into their heaps, after one of its tasks has ended."""
        parked, group.parked = group.parked, []
        self._put_back(parked)
        children, group.parked_children = group.parked_children, []
        for line in children:
            if line.tasks and line in self._within.get(line.parent.id, ()):
                heapq.heappush(self._children.setdefault(line.parent.id, []), line.entry)

    def _put_back(self, lines: Sequence[Line]) -> None:
        for line in lines:
            line.skip_cancelled()
            if line.tasks:
                self._no_more_aside(line)
                heapq.heappush(self._heap(line.peer), line.place())
            else:
                self._forget_line(line)

    def remove(self, task: TaskRecord) -> None:
        """Count a queued task as cancelled; it has left the state `Ready`, and is skipped when met."""
        peer = task.root.peer
        self._counts[peer] -= 1
        line = self._lines[peer][_key(task)]
        line.cancelled += 1
        line.compact()
        self._forget_if_aside(line)

    def take_out(self, task: TaskRecord) -> None:
        """Remove a queued task that may come again."""
        self._counts[task.root.peer] -= 1
        line = self._lines[task.root.peer][_key(task)]
        line.tasks.remove(task)
        self._forget_if_aside(line)

    def _forget_if_aside(self, line: Line) -> None:
        """Forget an empty line that waits for resources: nobody may ever meet it."""
        if line.needs and not len(line) and self._no_more_aside(line):
            self._forget_line(line)

    def before(self, task: TaskRecord) -> int:
        """How many tasks come before a queued one, of those with the same outermost client: slow, for people."""
        found = 0
        for line in self._lines.get(task.root.peer, {}).values():
            if line.priority > task.priority:
                found += len(line)
            elif line.priority == task.priority:
                at = bisect.bisect_left(line.tasks, task.order, key=_order)
                found += sum(type(other.state) is Ready for other in itertools.islice(line.tasks, at))
        return found

    def needed(self) -> Counter[Needs]:
        """How many tasks wait that need resources, by what they need; slow, for people."""
        found: Counter[Needs] = Counter()
        for lines in self._lines.values():
            for line in lines.values():
                if line.needs and len(line):
                    found[line.needs] += len(line)
        return found

    def waiting(self) -> set[int]:
        """The numbers of all tasks that wait here; slow, for checks."""
        lines = (line for lines in self._lines.values() for line in lines.values())
        return {task.id for line in lines for task in line.tasks if type(task.state) is Ready}

    def lose_client(self, client: ClientRecord) -> None:
        """Forget a client that has left."""
        self._lines.pop(client.peer, None)
        self._pythons.pop(client.peer, None)
        self._heaps.pop(client.peer, None)
        self._held.pop(client.peer, None)
        self._counts.pop(client.peer, None)
        self._turns.pop(client.peer, None)
        self._aside.pop(client.peer, None)
        self._dead.pop(client.peer, None)


def _key(task: TaskRecord) -> Key:
    # The group by identity: a client may use the number of a closed group again.
    return id(task.group), task.priority, 0 if task.parent is None else task.parent.id, task.needs


def _is_full(group: GroupRecord | None) -> bool:
    return group is not None and group.full


def _counts(entry: Place) -> bool:
    return entry[3] == entry[2].stamp


def _order(task: TaskRecord) -> int:
    return task.order
