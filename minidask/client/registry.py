"""The list of a process's clients: `get_client` looks for the newest one, and the end of the process closes all.

A forked child cannot use its parent's connections. It starts with an empty list.
"""

from __future__ import annotations

import atexit
import contextlib
from typing import Any, Protocol

from minidask.host.forks import Layer, on_fork
from minidask.net.tls_options import TLSChoice


class _Shell(Protocol):
    def abandon(self) -> None: ...


class LiveClient(Protocol):
    """The attributes of `Client` that this file needs; `Client` describes them."""

    cluster: Any
    implicit: bool
    nested: bool
    access_file: str | None
    tls: TLSChoice

    @property
    def shell(self) -> _Shell: ...

    @property
    def address(self) -> str: ...

    @property
    def closed(self) -> bool: ...

    def close(self) -> None: ...


live_clients: list[LiveClient] = []
"""All clients that were not closed, the newest last."""
inherited: tuple[str, str | None, TLSChoice] | None = None
"""In a forked child: address, access file and `tls` of the last client that its parent had made for an address."""


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
            inherited = client.address, client.access_file, client.tls
    for client in live_clients:
        client.shell.abandon()
    live_clients.clear()


atexit.register(_close_all)
on_fork(Layer.CLIENTS, _after_fork_in_child)
