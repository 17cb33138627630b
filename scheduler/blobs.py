"""The data that tasks share: a blob is kept while a client holds it or a task needs it.

The bytes of small blobs are here. Large ones stay with the clients that offer them: here is only which clients have
them, and which workers have them or fetch them, and from where. `router.py` tells how a blob travels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from minidask.errors import ProtocolError
from minidask.wire.messages import Payload

from .quota import ALL, Quota

RELAY = 0
"""The source, in the place of a worker's number: a client, through the scheduler."""

MAX_FAILED = 2
"""After so many workers that could not serve as source, a worker gets the blob through the scheduler."""


@dataclass(slots=True)
class Copy:
    """A worker's copy of a large blob: complete, or under way from `source`.

    The sources in `failed` could not serve it.
    """

    source: int = RELAY
    complete: bool = False
    failed: set[int] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class BlobRecord:
    """One blob, the clients that hold it, and how many tasks use it.

    An offered blob has a size, and no payload here.
    """

    payload: Payload
    size: int = 0
    holders: dict[int, str | None] = field(default_factory=dict)  # by client: the place of its store, if it offers it
    copies: dict[int, Copy] = field(default_factory=dict)  # by worker
    users: int = 0
    sizes: dict[int, int] = field(default_factory=dict)  # by client that offers it: as each has told it
    refuted: set[int] = field(default_factory=set)  # clients from which it could not be had
    charged: dict[int, int] = field(default_factory=dict)  # by client that has brought it, until it is removed: bytes

    def offering(self) -> int | None:
        """The client that is asked for the chunks; None if no client offers the blob."""
        able = (client for client, place in self.holders.items() if place is not None)
        return next((client for client in able if client not in self.refuted), None)


class BlobTable:
    """All blobs, by id. The blobs that `release` and `unuse` return were removed: nobody needs them any more.

    Args:
        quota: notes what is kept for which client.
    """

    def __init__(self, quota: Quota | None = None) -> None:
        self.records: dict[bytes, BlobRecord] = {}
        self._quota = quota or Quota()

    def room_for(self, blob: bytes, size: int, holder: int) -> int:
        """How much more is kept with a blob that a client brings than it was charged for that before.

        Raises:
            ProtocolError: there is no room for so much.
        """
        record = self.records.get(blob)
        more = max(0, size - (record.charged.get(holder, 0) if record is not None else 0))
        if more and (why := self._quota.why_not(holder, more, ALL)):
            raise ProtocolError(why)
        return more

    def charge(self, blob: bytes, more: int, holder: int) -> None:
        """Charge a client for what is kept with a blob, until the blob is removed."""
        record = self.records[blob]
        record.charged[holder] = record.charged.get(holder, 0) + self._quota.keep(holder, more)

    def put(self, blob: bytes, payload: Payload, holder: int) -> None:
        """Have a client hold a blob, and keep its bytes. A blob that has bytes already keeps those."""
        record = self.records.setdefault(blob, BlobRecord(payload))
        record.holders[holder] = None
        record.payload = record.payload or payload  # another client may have offered the blob, without bytes

    def offer(self, blob: bytes, size: int, place: str, holder: int) -> None:
        """Have a client hold a blob whose bytes stay there. `place` says where they lie on its machine."""
        record = self.records.setdefault(blob, BlobRecord([], size))
        record.holders[holder] = place
        record.sizes[holder] = size

    def size(self, blob: bytes) -> int:
        """The bytes of a blob: what has to be sent to a worker that does not have it."""
        record = self.records[blob]
        return record.size or sum(map(len, record.payload))

    def use(self, blobs: Iterable[bytes]) -> None:
        """Count one more task that uses these blobs."""
        for blob in blobs:
            self.records[blob].users += 1

    def unuse(self, blobs: Iterable[bytes]) -> list[bytes]:
        """Count one task less that uses these blobs. Returns those that were removed."""
        gone = []
        for blob in blobs:
            record = self.records[blob]
            record.users -= 1
            if not record.users and not record.holders:
                gone.append(blob)
        return self._remove(gone)

    def release(self, blobs: Iterable[bytes], holder: int) -> list[bytes]:
        """Have a client hold these blobs no longer. Returns those that were removed."""
        gone = []
        for blob in blobs:
            record = self.records[blob]
            record.holders.pop(holder, None)
            record.sizes.pop(holder, None)
            if not record.users and not record.holders:
                gone.append(blob)
        return self._remove(gone)

    def relayed(self, blob: bytes) -> list[int]:
        """The workers that are fetching a blob from a client, through the scheduler."""
        copies = self.records[blob].copies
        return [peer for peer, copy in copies.items() if copy.source == RELAY and not copy.complete]

    def _remove(self, blobs: list[bytes]) -> list[bytes]:
        for blob in blobs:
            for client, size in self.records.pop(blob).charged.items():
                self._quota.drop(client, size)
        return blobs

    def lose_copy(self, blob: bytes, worker: int) -> list[int]:
        """Forget a worker's copy. Returns the workers that were fetching the blob from there."""
        copies = self.records[blob].copies
        copies.pop(worker, None)
        return [peer for peer, copy in copies.items() if copy.source == worker and not copy.complete]

    def choose_source(self, blob: bytes, worker: int, serving: Container[int]) -> bool:
        """Choose a worker's source of a blob; `router.py` tells why this rule makes a chain. False if none is left.

        Args:
            serving: the workers at which others can fetch.
        """
        copies = self.records[blob].copies
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
    """The worker, and all that get the blob from it, directly or through others."""
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
