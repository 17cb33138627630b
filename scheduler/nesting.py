"""Tasks within tasks: a task that waits for what it has submitted lends its slot to its own descendants.

To nobody else: what it waits for depends on them alone, so no chain of waiting tasks, however deep, can use up the
slots and stand still (leapfrogging; D. Wagner and B. Calder, 1993). Free slots take the oldest tasks, which are those
nearest to the root; a lent slot the nearest to its own.
"""

from __future__ import annotations

from .ready import ReadyQueue
from .tasks import Nest, TaskRecord, WorkerRecord


class Nesting:
    """Who is whose parent, and whose slot is lent.

    Args:
        ready: the queue that all tasks wait in, descendants too.
    """

    def __init__(self, ready: ReadyQueue) -> None:
        self._ready = ready
        self._hosts: dict[int, TaskRecord] = {}  # tasks that wait, and may find something to run
        self._changed: dict[int, TaskRecord] = {}  # those that have begun or ceased to have nothing to run

    def born(self, task: TaskRecord) -> None:
        """A task was submitted by another one, its `parent`."""
        parent = task.parent
        assert parent is not None
        if parent.nest is None:
            parent.nest = Nest()
        if parent.parent is not None and parent.parent.nest is not None:
            parent.parent.nest.parents[parent.id] = parent
        parent.nest.children[task.id] = task

    def ended(self, task: TaskRecord) -> None:
        """A task within another one is over."""
        nest = task.parent.nest if task.parent is not None else None
        if nest is not None:
            nest.children.pop(task.id, None)
            nest.parents.pop(task.id, None)

    def is_ready(self, task: TaskRecord) -> None:
        """Tasks such as this one may run: whoever waits for it looks again."""
        ancestor = task.parent
        while ancestor is not None:
            self._look(ancestor)
            ancestor = ancestor.parent

    def waits(self, task: TaskRecord) -> None:
        """A task waits for its descendants."""
        if task.nest is None:
            task.nest = Nest()
        task.nest.waits = True
        self._look(task)

    def goes_on(self, task: TaskRecord) -> None:
        """A task waits no more, or its attempt is over."""
        if task.nest is not None:
            task.nest.waits = False
            self._hosts.pop(task.id, None)
            self._note(task)

    def lend(self, host: TaskRecord, guest: TaskRecord) -> None:
        """A task's slot runs one of its descendants."""
        assert host.nest is not None
        host.nest.guest = guest
        self._hosts.pop(host.id, None)
        self._note(host)

    def give_back(self, host: TaskRecord) -> None:
        """The descendant has ended."""
        assert host.nest is not None
        host.nest.guest = None
        self._look(host)

    def _look(self, task: TaskRecord) -> None:
        if self.has_nothing_to_run(task):
            self._hosts[task.id] = task
            self._note(task)

    def has_nothing_to_run(self, task: TaskRecord) -> bool:
        """Whether a task waits, and its slot runs none of its descendants."""
        return task.nest is not None and task.nest.waits and task.nest.guest is None

    def _note(self, task: TaskRecord) -> None:
        if task.nest is not None and task.nest.askers:
            self._changed[task.id] = task

    def take_changed(self) -> list[TaskRecord]:
        """The tasks for which that may have changed since this was last called, and for which somebody asks."""
        changed, self._changed = list(self._changed.values()), {}
        return changed

    def next_guest(self) -> tuple[TaskRecord, TaskRecord] | None:
        """Take a descendant out of the queue and name the one whose slot is to run it; None if there is none."""
        while self._hosts:
            host = max(self._hosts.values(), key=_depth)
            guest = self._descendant(host)
            if guest is not None:
                return guest, host
            del self._hosts[host.id]
        return None

    def host_of(self, task: TaskRecord, worker: WorkerRecord) -> TaskRecord | None:
        """A task that waits on the worker that another one has to run on, and can lend it its slot; None if none can.

        Any may: the guest does not depend on it, and two tasks that each have something to run where the other one
        waits would never end.
        """
        for host in worker.tasks.values() if task.parent is not None else ():
            nest = host.nest
            if nest is not None and nest.waits and nest.guest is None:
                return host
        return None

    def _descendant(self, task: TaskRecord) -> TaskRecord | None:
        """The nearest descendant that may run now, out of the queue; without recursion: nests may be deep."""
        above = [task]
        while above:
            task = above.pop()
            child = self._ready.pop_child(task)
            if child is not None:
                return child
            if task.nest is not None:
                above.extend(reversed(task.nest.parents.values()))
        return None


def _depth(task: TaskRecord) -> int:
    depth = 0
    while task.parent is not None:
        depth, task = depth + 1, task.parent
    return depth
