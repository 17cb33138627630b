"""Connections whose peers have not proven anything yet: how many there may be, and which has to go. Pure.

Anybody who reaches a port can open connections. Each costs memory and a descriptor, and without a bound they would
take all of both from honest peers. When there are too many, the oldest one goes, of those hosts that have the most. An
honest peer shakes hands in milliseconds, so hosts that only open connections throw out their own.
"""

from __future__ import annotations

import collections
from typing import Generic, TypeVar

MOST = 128
MOST_OF_ONE_HOST = 32

LinkT = TypeVar("LinkT")


class Strangers(Generic[LinkT]):
    """The connections to one program that are before authentication."""

    def __init__(self) -> None:
        self._hosts: dict[LinkT, str] = {}  # the oldest first

    def enter(self, link: LinkT, host: str) -> LinkT | None:
        """Take in a connection. Returns the one that has to be closed for it; None if there is room.

        Args:
            link: the connection.
            host: where it comes from; "" for a Unix socket.
        """
        counts = collections.Counter(self._hosts.values())
        counts[host] += 1
        self._hosts[link] = host
        if counts[host] <= MOST_OF_ONE_HOST and len(self._hosts) <= MOST:
            return None
        crowd = host if counts[host] > MOST_OF_ONE_HOST else max(counts, key=counts.__getitem__)
        gone = next(other for other, its_host in self._hosts.items() if its_host == crowd)
        del self._hosts[gone]
        return gone

    def leave(self, link: LinkT) -> None:
        """Forget a connection: its peer has proven itself, or it has ended."""
        self._hosts.pop(link, None)

    def all(self) -> list[LinkT]:
        """All of them, the oldest first."""
        return [*self._hosts]
