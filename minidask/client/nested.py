"""Finds the client of code that has not made one: in a task its slot's, elsewhere the last one that was made.

Every slot has a connection of its own to the scheduler, made when one of its tasks first needs a client and kept for
the next. What a task submits there is the task's: it ends with the task, and the slot runs it while the task waits.
"""

from __future__ import annotations

from pathlib import Path

from minidask.client.client import Client
from minidask.client.connecting import making_for_slot, shell_of
from minidask.client.registry import live_clients, remove
from minidask.client.shell import ClientShell
from minidask.errors import MinidaskError
from minidask.net.tls_options import from_text
from minidask.task.context import SlotOfTask, current_slot


class TaskClient(Client):
    """A client for the tasks of one slot.

    Args:
        slot: the tasks' slot; its connection is made if there is none.

    Raises:
        SchedulerLost: nobody answers at the scheduler's address.
        AuthenticationError: the secrets differ, or there is none.
    """

    nested = True

    def __init__(self, slot: SlotOfTask) -> None:
        self._slot = slot
        super().__init__(
            slot.scheduler, access_file=slot.access_file or None, tls=from_text(slot.tls), forward_output=False
        )

    def _connect(self, address: str, access_file: str | Path | None, forward_output: bool) -> ClientShell:
        return shell_of(self._slot)

    def close(self) -> None:
        """Do nothing: the connection belongs to the slot, and its next task uses it."""


def client_of(slot: SlotOfTask) -> TaskClient:
    """Return the client for the tasks of a slot: the same one each time, as long as its connection lasts.

    Raises:
        SchedulerLost: nobody answers at the scheduler's address.
        AuthenticationError: the secrets differ, or there is none.
    """
    with making_for_slot:
        shell = shell_of(slot)
        for client in list(live_clients):
            if isinstance(client, TaskClient):
                if client.shell is shell:
                    return client
                if client.closed:
                    remove(client)
        return TaskClient(slot)


def get_client() -> Client:
    """Return the last client that was made in this process and not closed; inside a task, its slot's.

    Raises:
        SchedulerLost: that client has lost its scheduler. It stands for a cluster that the user chose, so no other
            one takes its place until it is closed.
        MinidaskError: there is no client.
    """
    slot = current_slot()
    if slot is not None:
        return client_of(slot)
    client = find_client()
    if client is None:
        raise MinidaskError("there is no Client in this process: make one with minidask.Client()")
    return client


def find_client(implicit: bool = True) -> Client | None:
    """Return the last client that was made in this process, not closed, and is no task's; None if there is none.

    Args:
        implicit: whether a client that `Parallel` made for itself counts, as long as it has its scheduler.

    Raises:
        SchedulerLost: that client has lost its scheduler.
    """
    for client in reversed(live_clients):
        if not isinstance(client, Client) or client.nested or (client.implicit and (client.closed or not implicit)):
            continue
        client.shell.check()
        return client
    return None
