"""Tasks within tasks: who may run in whose slot, and who is told that a slot has nothing to do.

A task may submit tasks and wait for them. While it waits its slot does nothing. On a cluster of two slots, two tasks
that each submit three and wait would leave no slot for the six, and stand still for ever. Other systems start more
processes then, or have the user tell which tasks wait. Here the slot is lent.

Say that A has submitted B and C, and that B has submitted D:

    A waits          A waits           A waits
                     B runs            B waits
                                       D runs
    ───────────      ───────────       ───────────
    slot: free       slot: B is a      slot: D is a guest of B,
    to be lent       guest of A        B of A: the stack of calls

The waiting task is the host, the one that runs on top of it the guest. A guest runs in the thread that waits, so its
host goes on only when the guest has returned. This gives the rule of who may be a guest:

    A lent slot runs descendants of its host, and nothing else.

*Why no depth of nesting stands still.* Take any task that waits, and go down to a child that is not over. If the child
waits too, go on from there; each step leads to a younger task, so the way ends, at a task that does not wait. It runs:
then somebody gets on. Or it is ready, below a parent that waits. If the parent's slot has no guest, it takes this task
or another descendant. If it has one, that guest runs, or waits in its turn: then go down from the guest, which is
younger than its host. (A group at its limit changes nothing: then one of its tasks has a slot. Go down from that one.)
So below every task that waits, some task runs.

If a slot took any ready task instead, A could find itself below a stranger that takes an hour, although B and C were
done long ago. And two slots could each run on top of the task that the other one waits for. (The rule is known as
leapfrogging: D. Wagner and B. Calder, 1993.) A state machine test plays any order of events, and checks after each one
that no lent slot idles beside a ready descendant.

*Which guest.* Free slots take the oldest ready tasks, which are near the root and bring much work with them. A lent
slot takes the ready descendant that is nearest to its host: that ends the host's wait soonest. Of several hosts the
deepest is served first, since the others wait for it.

*What a guest needs.* Of the resources of the machine it has what its hosts hold, and what is free: `amounts.py`.

*What is dropped.* A thread of the host may go on while the guest is under way to the slot. The worker gives such a
guest back, and it is ready again. The one exception to the rule is a pinned task: it may use the lent slot of any task
on its worker, see `host_for`.

Who runs as whose guest is told in two places that are written together, here alone: `WorkerRecord.guests`, and
`Nest.guest` of the host.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from minidask.host.versions import fits
from minidask.wire import messages as m

from .amounts import free_of, suffice
from .placement import WorkerPool
from .ready import ReadyQueue
from .tasks import (
    Assignment,
    Cancelled,
    ClientRecord,
    Delivering,
    Nest,
    Running,
    TaskRecord,
    WorkerRecord,
    current_attempt,
)


class Nesting:
    """The tree of tasks, and the slots that are lent.

    Args:
        ready: the queue of all ready tasks, descendants too.
    """

    def __init__(self, ready: ReadyQueue) -> None:
        self._ready = ready
        self.changes = 0  # how often some task has begun or ceased to be able to host
        self._hosts: dict[int, TaskRecord] = {}  # those that can host, but for those found without a ready descendant

    # --- the tree ---

    def add(self, task: TaskRecord) -> None:
        """Enter a task that its parent has submitted."""
        parent = task.parent
        assert parent is not None
        if parent.parent is not None:
            _nest(parent.parent).parents[parent.id] = parent
        _nest(parent).children[task.id] = task

    def remove(self, task: TaskRecord) -> None:
        """Take a task that is over out of its parent's nest. Does nothing for a task without a parent."""
        nest = task.parent.nest if task.parent is not None else None
        if nest is not None:
            nest.children.pop(task.id, None)
            nest.parents.pop(task.id, None)

    # --- waiting ---

    def waiting(self, worker: WorkerRecord, message: m.Waiting) -> None:
        """A task waits for its children: its slot can be lent."""
        task = current_attempt(worker.tasks, message.task, message.attempt)
        if task is not None and type(task.state) is not Delivering:
            _nest(task).waits = True
            self.changes += 1
            self._consider(task)

    def resumed(self, worker: WorkerRecord, message: m.Resumed) -> None:
        """A task has resumed: its slot takes no more guests."""
        task = current_attempt(worker.tasks, message.task, message.attempt)
        if task is not None:
            self.stop_lending(task)

    def stop_lending(self, task: TaskRecord) -> None:
        """Lend the slot of a task to no further guest, since the task has resumed or its attempt is over."""
        if task.nest is not None and task.nest.waits:
            task.nest.waits = False
            self.changes += 1
            self._hosts.pop(task.id, None)

    def look_for_hosts(self, task: TaskRecord) -> None:
        """Consider the slots of all tasks above this one: it has become ready, or its group is not full any more."""
        ancestor = task.parent
        while ancestor is not None:
            self._consider(ancestor)
            ancestor = ancestor.parent

    def look_again(self, workers: Sequence[WorkerRecord]) -> None:
        """Some resources may have become free on these workers: look again at the tasks that wait for them."""
        self._ready.look_again([free_of(worker) for worker in workers if worker.free > 0 and not worker.lags])
        for worker in workers:
            for task in worker.tasks.values():
                self._consider(task)

    def _consider(self, host: TaskRecord) -> None:
        if host.nest is not None and host.nest.can_host:
            self._hosts[host.id] = host

    # --- lent slots ---

    def lend(self, host: TaskRecord, guest: TaskRecord, worker: WorkerRecord) -> None:
        """Note that a guest runs in the slot of its host."""
        assert host.nest is not None
        worker.guests[guest.id] = host
        host.nest.guest = guest
        self.changes += 1
        self._hosts.pop(host.id, None)

    def leave_slot(self, task: TaskRecord, worker: WorkerRecord) -> None:
        """Take a task that runs no more out of the stack of tasks in its slot.

        Its host, if it has one, can host again. A guest of the task itself may still run, for another thread of it.
        That guest becomes a guest of the host, or the only task in the slot.
        """
        host = worker.guests.pop(task.id, None)
        guest = task.nest.guest if task.nest is not None else None
        if host is not None:
            assert host.nest is not None
            host.nest.guest = None
            self.changes += 1
            self._consider(host)
        if guest is not None and task.nest is not None:
            task.nest.guest = None
            del worker.guests[guest.id]
            if host is not None:
                self.lend(host, guest, worker)

    def guest_died(self, host: TaskRecord | None, what: str) -> None:
        """Note that the guest that runs on top has ended the process of its slot, and so a host that still runs.

        The host is tried again, and submits it again, as a new task. Only its content tells that it is the same.
        """
        guest = host
        while guest is not None and guest.nest is not None and guest.nest.guest is not None:
            guest = guest.nest.guest
        if host is not None and guest is not None and guest is not host and type(host.state) is Running:
            deaths = _nest(_outermost(host)).deaths
            content = _content(guest)
            deaths[content] = (*deaths.get(content, ()), what)

    def died_before(self, parent: TaskRecord, task: m.Submit) -> tuple[str, ...]:
        """The deaths of earlier guests with the content of a task that is submitted: what happened, for each."""
        nest = _outermost(parent).nest
        return nest.deaths.get(_content(task), ()) if nest is not None and nest.deaths else ()

    def next_assignment(self) -> Assignment | None:
        """Take the next guest out of the queue, for the deepest host that has one; None if no host has one."""
        while self._hosts:
            host = max(self._hosts.values(), key=lambda host: _nest(host).depth)
            assert isinstance(host.state, Running | Cancelled), "only a task that runs can wait"
            guest = self._next_guest(host, host.state.worker)
            if guest is not None:
                return guest, host.state.worker, host
            del self._hosts[host.id]
        return None

    def _next_guest(self, host: TaskRecord, worker: WorkerRecord) -> TaskRecord | None:
        """Take out the nearest descendant that may run now; without recursion, since nests may be deep."""
        above = [host]
        while above:
            task = above.pop()
            child = self._ready.pop_child(task, lambda needs: suffice(free_of(worker, host), needs))
            if child is not None:
                return child
            if task.nest is not None:
                above.extend(reversed(task.nest.parents.values()))
        return None

    def host_for(self, worker: WorkerRecord) -> TaskRecord | None:
        """A task on this worker that can host a pinned nested task; None if there is none.

        Any task that waits will do, even one that is no ancestor. Otherwise two tasks that each have a task pinned to
        the worker where the other one waits would wait for ever.
        """
        for host in worker.tasks.values():
            if host.nest is not None and host.nest.can_host:
                return host
        return None


def _nest(task: TaskRecord) -> Nest:
    """The nest of a task, made if there is none."""
    if task.nest is None:
        task.nest = Nest(0 if task.parent is None else _nest(task.parent).depth + 1)
    return task.nest


def _outermost(task: TaskRecord) -> TaskRecord:
    while task.parent is not None:
        task = task.parent
    return task


def _content(task: TaskRecord | m.Submit) -> bytes:
    """A hash of what a task runs."""
    digest = hashlib.blake2b(repr((task.name, task.blobs)).encode(errors="surrogatepass"), digest_size=16)
    for buffer in task.payload:
        digest.update(buffer)
    return digest.digest()


class IdleNotices:
    """Tells the clients of slots whether a slot has nothing to do and would take some of their tasks.

    A task that runs a `Parallel` of its own keeps its batches while no slot is idle: to send them away would gain
    nothing. Idle is a free slot of a worker, or the slot of a task above, if it can host. A lent slot runs descendants
    alone, so no other client is told of that one. With 16 calls of 0.25 s, two levels below a task that waits in one of
    two slots, to count that slot makes 2.1 s of 4.0.

    Args:
        pool: the workers with free slots.
        nesting: counts changes of tasks that can host.
        send: takes each message to send, with its peer.
    """

    def __init__(self, pool: WorkerPool, nesting: Nesting, send: Callable[[int, m.Message], None]) -> None:
        self._pool = pool
        self._nesting = nesting
        self._send = send
        self._last_look: tuple[set[str], int] | None = None  # the Pythons with free slots, and the count of changes
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
        self._last_look = None

    def unsubscribe(self, client: ClientRecord, group: int) -> None:
        """Forget a group that was closed; without any group, its client gets no more notices."""
        _, groups = self.subscribers.get(client.peer, (client, {}))
        groups.pop(group, None)
        if not groups:
            self.lose_client(client)

    def lose_client(self, client: ClientRecord) -> None:
        """Forget a client that has left."""
        self.subscribers.pop(client.peer, None)
        self._last_sent.pop(client.peer, None)

    def send_changes(self) -> None:
        """Tell each subscriber what has changed for it; to be called when all tasks are assigned.

        If anything has changed that may concern one of them, all are looked at. There are as many of them as slots at
        most: an index of who is concerned by which change would cost more code than the looks cost time.
        """
        look = set(self._pool.idle), self._nesting.changes
        if not self.subscribers or look == self._last_look:
            return
        self._last_look = look
        for peer, (client, groups) in self.subscribers.items():
            idle = fits(client.python, self._pool.idle) or _can_host_above(groups.values())
            if self._last_sent.get(peer) is not idle:
                self._last_sent[peer] = idle
                self._send(peer, m.IdleSlots(idle))


def _can_host_above(parents: Iterable[TaskRecord | None]) -> bool:
    """Whether a task above one of these can host; each ancestor is looked at once."""
    met: set[int] = set()
    for parent in parents:
        ancestor = parent.parent if parent is not None else None
        while ancestor is not None and ancestor.id not in met:
            if ancestor.nest is not None and ancestor.nest.can_host:
                return True
            met.add(ancestor.id)
            ancestor = ancestor.parent
    return False
