"""The clients of this process, the newest last; closed at its end, and of no more use in forks of it."""

from __future__ import annotations

import atexit
import contextlib
from typing import Any, Protocol

from minidask.host.forks import Layer, on_fork


class _Shell(Protocol):
    def abandon(self) -> None: ...


class LiveClient(Protocol):
    """A client, as far as this file has to know it; `Client` has these attributes, and says what they are."""

    cluster: Any
    implicit: bool
    nested: bool
    access_file: str | None

    @property
    def shell(self) -> _Shell: ...

    @property
    def address(self) -> str: ...

    @property
    def closed(self) -> bool: ...

    def close(self) -> None: ...


live_clients: list[LiveClient] = []
"""Every client that was not closed, the newest last."""
inherited: tuple[str, str | None] | None = None
"""In a forked child: address and access file of the last client that its parent had made for an address."""


def remove(client: LiveClient) -> None:
    """Forget a client that was closed, and the clients of tasks whose connections have ended."""
    for other in list(live_clients):
        if other is client or (other.nested and other.closed):
            with contextlib.suppress(ValueError):  # another thread has removed it just now
                live_clients.remove(other)


def _close_all() -> None:
    for client in list(live_clients):
        client.close()


def _after_fork_in_child() -> None:
    global inherited
    for client in live_clients:
        if client.cluster is None and not client.nested and not client.implicit:
            inherited = client.address, client.access_file
    for client in live_clients:
        client.shell.abandon()
    live_clients.clear()


atexit.register(_close_all)
on_fork(Layer.CLIENTS, _after_fork_in_child)
