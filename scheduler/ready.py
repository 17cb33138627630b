"""The queue of tasks that wait for a worker: fair between clients, then by priority, then by order.

Clients take turns. A task of a group that may run no more at once is parked with its group, and
comes back, in its old place, when one of the group's tasks ends. Cancelled tasks are skipped when met,
and swept out when they become the larger part.
"""

from __future__ import annotations

import heapq

from .tasks import ClientRecord, GroupRecord, Ready, TaskRecord

Entry = tuple[int, int, TaskRecord]


class ReadyQueue:
    """All tasks in state `Ready` that no worker is pinned to."""

    def __init__(self) -> None:
        self._heaps: dict[int, list[Entry]] = {}  # by client; the first in the dict is the next to take a turn
        self._live: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(self._live.values())

    def live(self, client: ClientRecord) -> int:
        """How many tasks of this client wait, parked ones included."""
        return self._live.get(client.peer, 0)

    def peers(self) -> set[int]:
        """The clients that the queue knows of."""
        return self._heaps.keys() | self._live.keys()

    def push(self, task: TaskRecord) -> None:
        """Queue a task; one that comes back takes its old place."""
        peer = task.client.peer
        self._live[peer] = self._live.get(peer, 0) + 1
        self._insert((-task.priority, task.id, task))

    def _insert(self, entry: Entry) -> None:
        heapq.heappush(self._heaps.setdefault(entry[2].client.peer, []), entry)

    def peek(self) -> TaskRecord | None:
        """The next task that may run now, left where it is; None if there is none."""
        for peer in list(self._heaps):
            heap = self._heaps[peer]
            while heap:
                task = heap[0][2]
                if type(task.state) is not Ready:
                    heapq.heappop(heap)
                elif task.group is not None and task.group.full:
                    heapq.heappush(task.group.parked, heapq.heappop(heap))
                else:
                    return task
            del self._heaps[peer]
        return None

    def pop(self) -> TaskRecord | None:
        """Take out the next task that may run now; None if there is none. Its client's turn is over."""
        task = self.peek()
        if task is not None:
            peer = task.client.peer
            heap = self._heaps.pop(peer)
            heapq.heappop(heap)
            if heap:
                self._heaps[peer] = heap
            self._live[peer] -= 1
        return task

    def unpark(self, group: GroupRecord) -> None:
        """A task of the group has ended: its next one may be taken."""
        while group.parked and not group.full:
            entry = heapq.heappop(group.parked)
            if type(entry[2].state) is Ready:
                self._insert(entry)
                return

    def cancelled(self, task: TaskRecord) -> None:
        """A queued task left the state `Ready`; its entry is now waste."""
        peer = task.client.peer
        self._live[peer] -= 1
        heap = self._heaps.get(peer, [])
        if len(heap) > 64 and len(heap) > 2 * self._live[peer]:
            heap[:] = [entry for entry in heap if type(entry[2].state) is Ready]
            heapq.heapify(heap)

    def forget(self, client: ClientRecord) -> None:
        """Drop all that is left of a client."""
        self._heaps.pop(client.peer, None)
        self._live.pop(client.peer, None)
