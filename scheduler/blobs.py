"""The data that tasks share: a blob is kept while a client holds it or a task needs it.

The bytes of small ones are here. Large ones stay with the clients that offer them: here is only who has them, who is
fetching them from whom, and the rule by which the next one is told where to fetch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from minidask.wire.messages import Payload

RELAY = 0
"""In the place of a worker as source: the client, through the scheduler."""

MAX_FAILED = 2


@dataclass(slots=True)
class Copy:
    """A worker's copy of a large blob: complete, or on its way from `source`. It has failed to come from `failed`."""

    source: int = RELAY
    complete: bool = False
    failed: set[int] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class BlobRecord:
    """One blob, the clients that hold it, and how many tasks need it; one that was offered has a size."""

    payload: Payload
    size: int = 0
    holders: dict[int, str | None] = field(default_factory=dict)  # by client: the place of its store, if it offers it
    copies: dict[int, Copy] = field(default_factory=dict)  # by worker
    users: int = 0


class BlobTable:
    """All blobs, by name. What `release` and `unuse` return is gone: nobody wants those any more."""

    def __init__(self) -> None:
        self.records: dict[bytes, BlobRecord] = {}

    def put(self, name: bytes, payload: Payload, holder: int) -> None:
        """`holder` holds the blob from now on; a blob that is known already keeps the bytes it has."""
        record = self.records.setdefault(name, BlobRecord(payload))
        record.holders[holder] = None
        record.payload = record.payload or payload  # it was offered, and whoever did so may leave

    def offer(self, name: bytes, size: int, place: str, holder: int) -> None:
        """`holder` holds the blob from now on, and sends its bytes when asked."""
        self.records.setdefault(name, BlobRecord([], size)).holders[holder] = place

    def size(self, name: bytes) -> int:
        """How many bytes have to be sent to a worker that does not have it."""
        record = self.records[name]
        return record.size or sum(map(len, record.payload))

    def use(self, names: Iterable[bytes]) -> None:
        """One more task needs these."""
        for name in names:
            self.records[name].users += 1

    def unuse(self, names: Iterable[bytes]) -> list[bytes]:
        """A task that needed these is over."""
        gone = []
        for name in names:
            record = self.records[name]
            record.users -= 1
            if not record.users and not record.holders:
                gone.append(name)
        return self._remove(gone)

    def release(self, names: Iterable[bytes], holder: int) -> list[bytes]:
        """`holder` holds these no longer."""
        gone = []
        for name in names:
            record = self.records[name]
            record.holders.pop(holder, None)
            if not record.users and not record.holders:
                gone.append(name)
        return self._remove(gone)

    def relayed(self, name: bytes) -> list[int]:
        """The workers that are fetching a blob from a client."""
        copies = self.records[name].copies
        return [peer for peer, copy in copies.items() if copy.source == RELAY and not copy.complete]

    def _remove(self, names: list[bytes]) -> list[bytes]:
        for name in names:
            del self.records[name]
        return names

    def lose_copy(self, name: bytes, worker: int) -> list[int]:
        """A worker's copy is gone; returns the workers that were fetching it from there."""
        copies = self.records[name].copies
        copies.pop(worker, None)
        return [peer for peer, copy in copies.items() if copy.source == worker and not copy.complete]

    def choose_source(self, name: bytes, worker: int, serving: Container[int]) -> bool:
        """Choose where a worker shall fetch a blob: its copy's `source`. Whether there is any place left.

        From a worker that has it or is about to: then that passes each part on as it comes. So the data goes from one
        to the next along chains, each network card sends it about once, and the time hardly grows with the
        number of machines. The client sends it when nobody else can, or when others have failed to more than once: a
        firewall between workers costs a few seconds for each.
        """
        copies = self.records[name].copies
        own = copies.setdefault(worker, Copy())
        if len(own.failed) >= MAX_FAILED and RELAY not in own.failed:
            own.source = RELAY
            return True
        fed = Counter(copy.source for copy in copies.values() if not copy.complete)
        excluded = own.failed | _hanging_on(copies, worker)
        candidates = [peer for peer in copies if peer in serving and peer not in excluded]
        own.source = min(candidates, key=lambda peer: fed[peer], default=RELAY)
        return own.source not in own.failed


def _hanging_on(copies: dict[int, Copy], worker: int) -> set[int]:
    """The worker, and those that get it from there, directly or not."""
    fed_by: dict[int, list[int]] = {}
    for peer, copy in copies.items():
        if not copy.complete:
            fed_by.setdefault(copy.source, []).append(peer)
    found, waiting = {worker}, [worker]
    while waiting:
        new = fed_by.get(waiting.pop(), [])
        found.update(new)
        waiting += new
    return found
