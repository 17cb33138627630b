"""What clients are told of workers that change: the last word of each, once for a batch of events. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from minidask.wire.messages import Message, WorkerChanged

from .tasks import ClientRecord


class News:
    """The changes that clients were not told yet: a worker may say something new with every message.

    Args:
        clients: all of them, by peer; the scheduler's own table.
        send: takes each message to send, with its peer.
    """

    def __init__(self, clients: Mapping[int, ClientRecord], send: Callable[[int, Message], None]) -> None:
        self._clients = clients
        self._send = send
        self._waiting: dict[int, dict[str, WorkerChanged]] = {}  # by client, then by the worker's address

    def add(self, message: WorkerChanged) -> None:
        """Note a change for all clients that are there."""
        for peer in self._clients:
            self._waiting.setdefault(peer, {})[message.address] = message

    def tell(self) -> None:
        """Send what is new, but for clients that lag: they are told when they have caught up."""
        waiting, self._waiting = self._waiting, {}
        for peer, news in waiting.items():
            client = self._clients.get(peer)
            if client is not None and client.lags:
                self._waiting[peer] = news
            elif client is not None:
                for message in news.values():
                    self._send(peer, message)
