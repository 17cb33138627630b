"""The clients of this process: which was made last, and what becomes of them at its end and in forks of it."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING

from minidask.errors import MinidaskError
from minidask.task.context import current_slot

if TYPE_CHECKING:
    from minidask.client.client import Client

live_clients: list[Client] = []
"""Every client that was not closed, the newest last."""
inherited: tuple[str, str | None] | None = None
"""In a forked child: address and access file of the last client that its parent had made for an address."""


def get_client() -> Client:
    """The client made last in this process that was not closed; inside a task, that of its slot.

    Raises:
        SchedulerLost: it has lost its scheduler. Whoever has made a client gets its cluster, or an error, until they
            close it.
        MinidaskError: there is none.
    """
    slot = current_slot()
    if slot is not None:
        from minidask.client.nested import client_of  # noqa: PLC0415 - most tasks need none

        return client_of(slot)
    client = find_client()
    if client is None:
        raise MinidaskError("there is no Client in this process: make one with minidask.Client()")
    return client


def find_client() -> Client | None:
    """As `get_client`, outside of tasks; None if there is none."""
    for client in reversed(live_clients):
        if client.nested or (client.closed and client.implicit):
            continue
        client.link.check()
        return client
    return None


def _close_all() -> None:
    for client in list(live_clients):
        client.close()


def _after_fork_in_child() -> None:
    global inherited
    for client in live_clients:
        if client.cluster is None and not client.nested and not client.implicit:
            inherited = client.address, client.access_file
    for client in live_clients:
        client.link.abandon()
    live_clients.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
