"""How a client gets its connection: a new one for each `Client`, and one for all tasks of a slot."""

from __future__ import annotations

import getpass
import os
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import NamedTuple

from minidask.client.connection import Connection
from minidask.client.helping import LOOK_SECONDS
from minidask.client.returning import Return
from minidask.client.shell import ClientShell
from minidask.errors import AuthenticationError, SchedulerLost
from minidask.host.packages import python_version
from minidask.net.addresses import Address
from minidask.net.tls_options import PLAIN_WARNING, TLSChoice, from_text
from minidask.task.context import SlotOfTask, current_slot

RETURN_SECONDS = 60.0
"""How long a task waits for a scheduler: this one may have been lost, and started again, while the task went on."""
SECRET_SECONDS = 5.0
"""How long a task waits for the secret of its own machine's scheduler: somebody may have removed its folder."""
TASK_TIMEOUT = 10.0


class Entry(NamedTuple):
    """How a client gets to its scheduler, and what it calls itself there.

    Attributes:
        address: of the scheduler.
        access_file: the file with the shared secret; None for the usual places.
        tls: how a TCP connection is encrypted; None: as the access file says.
        name: what the scheduler calls this client.
        timeout: seconds to connect and shake hands in.
        forward_output: whether the scheduler sends what tasks print.
    """

    address: str
    access_file: str | Path | None
    tls: TLSChoice
    name: str
    timeout: float
    forward_output: bool


def connect(entry: Entry, cancel_dropped: bool, return_by: Return | None) -> ClientShell:
    """Connect a client to the scheduler at an address.

    A task may do that, with its own cluster too. Its slot is then lent while it waits for what it submits there.

    Args:
        entry: how it gets there.
        cancel_dropped: whether a task that has not begun is cancelled when nobody holds its future any more.
        return_by: how a connection that is lost is made again; None: it is not.

    Raises:
        ValueError: the text is no address.
        SchedulerLost: nobody answers there.
        AuthenticationError, VersionMismatch, ProtocolError: somebody answers, but not as it should.
    """
    connection = _connection(entry, return_by.seconds if return_by is not None else 0.0)
    try:
        if connection.is_plain:
            warnings.warn(PLAIN_WARNING % entry.address, stacklevel=4)
        slot = current_slot()
        if slot is None or shell_of(slot).connection.scheduler_id != connection.scheduler_id:
            return ClientShell(connection, None, cancel_dropped, return_by)
    except BaseException:
        connection.close()
        raise
    connection.close()  # only now it is known that this is the scheduler that may know of which slot this is
    return _shell_for(slot, _connection(entry, 0.0, slot.uid))


making_for_slot = threading.RLock()
"""Held while a slot's connection, or the client of its tasks, is made: by one thread at a time."""


def shell_of(slot: SlotOfTask) -> ClientShell:
    """Return the shell through which a slot's tasks submit. It is connected now if it has no connection.

    Raises:
        SchedulerLost: nobody answers at the scheduler's address.
        AuthenticationError: the secrets differ, or there is none.
    """
    with making_for_slot:
        if slot.client is None or slot.client.core.closed:
            slot.client = _shell_for(slot, _connection_of(slot))
        shell: ClientShell = slot.client
        return shell


def _shell_for(slot: SlotOfTask, connection: Connection) -> ClientShell:
    try:
        return ClientShell(connection, slot)
    except BaseException:
        connection.close()
        raise


def _connection_of(slot: SlotOfTask) -> Connection:
    began = time.monotonic()
    tls = from_text(slot.tls)
    entry = Entry(slot.scheduler, slot.access_file or None, tls, own_name(), TASK_TIMEOUT, forward_output=False)
    while True:
        try:
            return _connection(entry, None, slot.uid)
        except SchedulerLost:
            if time.monotonic() > began + RETURN_SECONDS:
                slot.cut_off(slot.call)
                raise
        except AuthenticationError:
            if not slot.scheduler.startswith("unix:") or time.monotonic() > began + SECRET_SECONDS:
                raise
        time.sleep(LOOK_SECONDS)


def _connection(entry: Entry, reconnect_timeout: float | None, slot_of: str = "") -> Connection:
    """A connection of a client that connects again for so many seconds; None: of a slot."""
    info = {
        "name": entry.name,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "forward_output": entry.forward_output,
        "nested": reconnect_timeout is None,
        "python": python_version(),
        "slot_of": slot_of,
        "reconnect_timeout": float(reconnect_timeout or 0.0),
    }
    return Connection(Address.parse(entry.address), entry.access_file, entry.tls, info, entry.timeout)


def own_name() -> str:
    """Return the name of a client that was given none, as "user@host script.py 1234": the number is its process's."""
    line = getattr(sys, "argv", None) or [""]
    name = Path(str(line[0]) or "python").name or "python"
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # the system does not know it
        user = str(os.getuid())
    whole = f"{user}@{socket.gethostname()} {name} {os.getpid()}"
    return os.fsencode(whole).decode("utf-8", "backslashreplace")
