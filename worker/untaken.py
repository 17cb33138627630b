"""Large results that wait in a store for the clients that share it: none stays when nobody can take it any more.

A client takes its results from the store and tells nobody. It may be stopped, or at a breakpoint, for a day, and clocks
jump; so age says nothing. The scheduler knows: nobody waits for that attempt, or the client has left. It is in the same
process here.

    slot: hand_over ─► daemon: accept ─► add ─┬─ the client takes it ─► look finds it gone, and forgets it
     goes with the slot    stays from here on ├─ nobody waits for the attempt ─► removed at once
                                              └─ the client has left ─► look removes it

The daemon accepts a result before it tells the scheduler of the outcome, and waits for the process of a slot that has
ended only afterwards: until then no other process can have its number, and with it its files.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Protocol

from minidask.data.store import BlobStore


class Recipients(Protocol):
    """The scheduler's core, as seen from here: it knows which clients wait for outcomes."""

    @property
    def clients(self) -> Container[int]:
        """The numbers of the clients that are connected."""

    def recipient(self, task: int, attempt: int) -> int:
        """The client that waits for the outcome of an attempt; 0 if none does."""


class Untaken:
    """The results that were accepted for clients, and may still be in the store.

    Args:
        store: where the results are.
        recipients: None if no client shares the store; then nothing is kept here.
    """

    def __init__(self, store: BlobStore, recipients: Recipients | None) -> None:
        self._store = store
        self._recipients = recipients
        self._left: dict[int, set[bytes]] = {}

    def add(self, task: int, attempt: int, results: Iterable[bytes]) -> None:
        """Note the results of an attempt whose outcome is about to be told; remove them if nobody waits for it."""
        if self._recipients is None:
            return
        client = self._recipients.recipient(task, attempt)
        if client:
            self._left.setdefault(client, set()).update(results)
        else:
            self._remove(results)

    def look(self) -> None:
        """Remove the results of clients that have left, and forget those that were taken. To be called now and then."""
        if self._recipients is None or not self._left:
            return
        there = self._store.results()
        for client, results in list(self._left.items()):
            results &= there
            if client not in self._recipients.clients:
                self._remove(results)
                results.clear()
            if not results:
                del self._left[client]

    def _remove(self, results: Iterable[bytes]) -> None:
        for result in results:
            self._store.remove_result(result)
