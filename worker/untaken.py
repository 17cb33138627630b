"""Large results that wait in a store until the clients that share it take them: none stays when nobody can any more.

A client takes its results without a word, and may be stopped for as long as it likes. What says that one of them is
wanted no more is the scheduler, in the same process here: nobody waits for that attempt, or the client has left.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Protocol

from minidask.data.store import BlobStore


class Recipients(Protocol):
    """What knows who waits for outcomes: the scheduler's core. `clients` are the numbers of those that are there."""

    @property
    def clients(self) -> Container[int]: ...

    def recipient(self, task: int, attempt: int) -> int:
        """The client that waits for the outcome of an attempt; 0 if none does."""


class Untaken:
    """See the module's docstring.

    Args:
        store: where the results are.
        recipients: None where that is not known, as no client shares the store.
    """

    def __init__(self, store: BlobStore, recipients: Recipients | None) -> None:
        self._store = store
        self._recipients = recipients
        self._left: dict[int, set[bytes]] = {}

    def add(self, task: int, attempt: int, parts: Iterable[bytes]) -> None:
        """The outcome of an attempt is about to be told, and these parts of it are in the store."""
        if self._recipients is None:
            return
        client = self._recipients.recipient(task, attempt)
        if client:
            self._left.setdefault(client, set()).update(parts)
        else:
            self._remove(parts)

    def look(self) -> None:
        """Forget what was taken, and remove what was left for clients that have gone; to be called now and then."""
        if self._recipients is None or not self._left:
            return
        there = self._store.results()
        for client, parts in list(self._left.items()):
            parts &= there
            if client not in self._recipients.clients:
                self._remove(parts)
                parts.clear()
            if not parts:
                del self._left[client]

    def _remove(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self._store.remove_result(part)
