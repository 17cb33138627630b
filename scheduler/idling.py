"""Tells tasks that run their own calls whether somebody has nothing to do, and would take some of them.

That is a worker with a free slot, or a task above that waits while there is nothing for its slot: a slot that is lent
runs descendants only, so nobody else is told of it.
"""

from __future__ import annotations

from collections.abc import Callable

from minidask.host.versions import fits
from minidask.wire import messages as m

from .nesting import Nesting
from .placement import WorkerPool
from .tasks import ClientRecord, Nest, TaskRecord


class Idling:
    """Who asks, and what each was told last.

    Args:
        send: takes the messages to send, each with its peer.
    """

    def __init__(self, pool: WorkerPool, nesting: Nesting, send: Callable[[int, m.Message], None]) -> None:
        self._pool = pool
        self._nesting = nesting
        self._send = send
        self._idle: set[str] = set()  # the Pythons of the workers with a free slot
        self.askers: dict[int, dict[int, list[TaskRecord]]] = {}  # by client and group: the tasks above its calls
        self._pythons: dict[int, str] = {}  # by client
        self._told: dict[int, bool] = {}

    def ask(self, client: ClientRecord, group: int, parent: TaskRecord | None) -> None:
        """A task begins to run calls of a group: it is told now, and at each change."""
        above = []
        ancestor = parent.parent if parent is not None else None
        while ancestor is not None:
            ancestor.nest = nest = ancestor.nest or Nest()
            nest.askers[client.peer] = nest.askers.get(client.peer, 0) + 1
            above.append(ancestor)
            ancestor = ancestor.parent
        self.askers.setdefault(client.peer, {})[group] = above
        self._pythons[client.peer] = client.python
        self._told.pop(client.peer, None)
        self._tell(client.peer)

    def ask_no_more(self, client: ClientRecord, group: int) -> None:
        """It has run them all."""
        groups = self.askers.get(client.peer, {})
        for ancestor in groups.pop(group, ()):
            askers = ancestor.nest.askers if ancestor.nest is not None else {}
            askers[client.peer] -= 1
            if not askers[client.peer]:
                del askers[client.peer]
        if not groups:
            for of_clients in (self.askers, self._told, self._pythons):
                of_clients.pop(client.peer, None)

    def leave(self, client: ClientRecord) -> None:
        """A client is gone."""
        for group in list(self.askers.get(client.peer, ())):
            self.ask_no_more(client, group)

    def update(self) -> None:
        """All that could be placed was: tell those for whom something has changed."""
        changed = self._nesting.take_changed()
        if self._pool.idle.keys() != self._idle:
            self._idle = set(self._pool.idle)
            peers = set(self.askers)
        else:
            peers = {peer for task in changed if task.nest is not None for peer in task.nest.askers}
        for peer in peers:
            self._tell(peer)

    def _tell(self, peer: int) -> None:
        above = (task for tasks in self.askers[peer].values() for task in tasks)
        idle = fits(self._pythons[peer], self._idle) or any(self._nesting.has_nothing_to_run(task) for task in above)
        if self._told.get(peer) is not idle:
            self._told[peer] = idle
            self._send(peer, m.IdleSlots(idle))
