"""The clients of this process: which was made last, and what becomes of them at its end and in forks of it."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING

from minidask.errors import MinidaskError
from minidask.nesting import here

if TYPE_CHECKING:
    from minidask.client.client import Client

live_clients: list[Client] = []
"""Every client that was not closed, the newest last."""


def get_client() -> Client:
    """The client made last in this process that is still open; inside a task, that of its slot.

    Raises:
        MinidaskError: there is none.
    """
    slot = here()
    if slot is not None:
        from minidask.client.nested import client_of  # noqa: PLC0415 - most tasks need none

        return client_of(slot)
    for client in reversed(live_clients):
        if not client.closed and not client.nested:
            return client
    raise MinidaskError("there is no Client in this process: make one with minidask.Client()")


def _close_all() -> None:
    for client in list(live_clients):
        client.close()


def _after_fork_in_child() -> None:
    for client in live_clients:
        client.link.abandon()
    live_clients.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
