"""Tasks within tasks: a task that waits for what it has submitted lends its slot to its own descendants.

To nobody else: what it waits for depends on them alone, so no chain of waiting tasks, however deep, can use up the
slots and stand still (leapfrogging; D. Wagner and B. Calder, 1993). Free slots take the oldest tasks, which are those
nearest to the root; a lent slot the nearest to its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from minidask.host.versions import fits
from minidask.wire import messages as m

from .placement import WorkerPool
from .ready import ReadyQueue
from .tasks import ClientRecord, Nest, TaskRecord, WorkerRecord


class Nesting:
    """Who is whose parent, and whose slot is lent.

    Args:
        ready: the queue that all tasks wait in, descendants too.
    """

    def __init__(self, ready: ReadyQueue) -> None:
        self._ready = ready
        self._hosts: dict[int, TaskRecord] = {}  # tasks that wait, and may find something to run

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

    def lend(self, host: TaskRecord, guest: TaskRecord) -> None:
        """A task's slot runs one of its descendants."""
        assert host.nest is not None
        host.nest.guest = guest
        self._hosts.pop(host.id, None)

    def give_back(self, host: TaskRecord) -> None:
        """The descendant has ended."""
        assert host.nest is not None
        host.nest.guest = None
        self._look(host)

    def _look(self, task: TaskRecord) -> None:
        if task.nest is not None and task.nest.can_host:
            self._hosts[task.id] = task

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
            if nest is not None and nest.can_host:
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


class IdleNotices:
    """Tells the clients of slots whether a slot has nothing to do and would take some of their tasks.

    Such a slot is a free slot of a worker, or the slot of a task above, which waits and has nothing to run. A lent
    slot runs descendants alone, so no other client is told of that one.

    Args:
        pool: the workers with free slots.
        send: takes each message to send, with its peer.
    """

    def __init__(self, pool: WorkerPool, send: Callable[[int, m.Message], None]) -> None:
        self._pool = pool
        self._send = send
        self.subscribers: dict[int, tuple[ClientRecord, dict[int, TaskRecord | None]]] = {}  # with groups' parents
        self._last_sent: dict[int, bool] = {}

    def subscribe(self, client: ClientRecord, group: int, parent: TaskRecord | None) -> None:
        """Send a client a notice at the next `send_changes`, and at each change until it unsubscribes.

        Args:
            group: the group of tasks that the client has opened.
            parent: the task that submits them; None if its attempt is over.
        """
        self.subscribers.setdefault(client.peer, (client, {}))[1][group] = parent
        self._last_sent.pop(client.peer, None)

    def unsubscribe(self, client: ClientRecord, group: int) -> None:
        """Forget a group that was closed; without any, its client gets no more notices."""
        _, groups = self.subscribers.get(client.peer, (client, {}))
        groups.pop(group, None)
        if not groups:
            self.leave(client)

    def leave(self, client: ClientRecord) -> None:
        """Forget a client that has left."""
        self.subscribers.pop(client.peer, None)
        self._last_sent.pop(client.peer, None)

    def send_changes(self) -> None:
        """Look once for each subscriber, and tell it what has changed; to be called when all tasks are assigned.

        There are as many subscribers as slots at most: an index of who is concerned by which change would cost more
        code than the looks cost time.
        """
        for peer, (client, groups) in self.subscribers.items():
            idle = fits(client.python, self._pool.idle) or _host_above(groups.values())
            if self._last_sent.get(peer) is not idle:
                self._last_sent[peer] = idle
                self._send(peer, m.IdleSlots(idle))


def _host_above(parents: Iterable[TaskRecord | None]) -> bool:
    """Whether the slot of a task above one of these has nothing to run; each ancestor is looked at once."""
    met: set[int] = set()
    for parent in parents:
        ancestor = parent.parent if parent is not None else None
        while ancestor is not None and ancestor.id not in met:
            if ancestor.nest is not None and ancestor.nest.can_host:
                return True
            met.add(ancestor.id)
            ancestor = ancestor.parent
    return False
