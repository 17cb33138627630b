"""The bytes that tasks share: a blob is kept while a client holds it or a task needs it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from minidask.wire.messages import Payload


@dataclass(slots=True, eq=False)
class BlobRecord:
    """One blob, the clients that hold it, and how many tasks need it."""

    payload: Payload
    holders: set[int] = field(default_factory=set)
    users: int = 0


class BlobShelf:
    """All blobs, by name. What `release` and `unuse` return is gone: nobody wants those any more."""

    def __init__(self) -> None:
        self.records: dict[bytes, BlobRecord] = {}

    def put(self, name: bytes, payload: Payload, holder: int) -> None:
        """`holder` holds the blob from now on; a blob that is known already keeps the bytes it has."""
        self.records.setdefault(name, BlobRecord(payload)).holders.add(holder)

    def payload(self, name: bytes) -> Payload:
        return self.records[name].payload

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
            record.holders.discard(holder)
            if not record.users and not record.holders:
                gone.append(name)
        return self._remove(gone)

    def _remove(self, names: list[bytes]) -> list[bytes]:
        for name in names:
            del self.records[name]
        return names
