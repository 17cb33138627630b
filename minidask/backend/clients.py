"""Finds the client of a `Parallel` call: one that the user has made, or one that is made for such calls."""

from __future__ import annotations

import threading

from minidask.client import registry
from minidask.client.client import Client
from minidask.client.nested import find_client, get_client
from minidask.client.places import address_of_environment
from minidask.host.forks import Layer, on_fork
from minidask.task.context import current_slot

_clients: dict[str | None, Client] = {}
_clients_lock = threading.Lock()


def client_for(address: str | None, reconnect_timeout: float) -> Client:
    """Return the client for an address. A new one is kept for later calls.

    A client that was made here and has lost its scheduler is made again. It connects to the same address or fails.
    Where no address was given, another cluster is started on this machine.

    Args:
        address: of the scheduler. None: in a task the slot's client; else the last client that the user made in
            this process; else the address in `MINIDASK_SCHEDULER`; else a cluster on this machine.
        reconnect_timeout: of a client that is made here.

    Raises:
        MinidaskError: there is no scheduler at the address, or it refuses.
    """
    if address is None:
        client = get_client() if current_slot() is not None else find_client(implicit=False)
        if client is not None:
            return client
    access_file, tls = None, None
    if address is None and registry.inherited is not None:
        address, access_file, tls = registry.inherited
    address = address or address_of_environment()
    with _clients_lock:
        client = _clients.get(address)
        if client is None or client.closed:
            if client is not None:
                client.close()
            client = Client(address, access_file=access_file, tls=tls, reconnect_timeout=reconnect_timeout)
            client.implicit = True
            _clients[address] = client
    if current_slot() is not None:
        own = get_client()
        if own.shell.connection.scheduler_id == client.shell.connection.scheduler_id:
            return own  # a task that names its own cluster
    return client


def _after_fork_in_child() -> None:
    global _clients_lock
    _clients_lock = threading.Lock()  # a thread of the parent may have held it
    _clients.clear()


on_fork(Layer.CLIENTS, _after_fork_in_child)
