"""Finds the address that a client connects to, if the call itself has none: in the environment, or of a cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from minidask.net.access import load_access
from minidask.net.addresses import Address

VARIABLE = "MINIDASK_SCHEDULER"


class ClusterOfProgram(Protocol):
    """What a client needs of a cluster that this program has started: `LocalCluster`, `SSHCluster` and the like."""

    scheduler_address: str
    access_file: str


def address_of_environment() -> str | None:
    """Return the address in `MINIDASK_SCHEDULER`; None if the variable is not set, or empty.

    Raises:
        ValueError: the variable has something else than an address.
    """
    address = os.environ.get(VARIABLE, "").strip()
    if not address:
        return None
    try:
        Address.parse(address)
    except ValueError as error:
        raise ValueError(f"in the environment variable {VARIABLE}: {error}") from None
    return address


def address_in(access_file: str | Path | None) -> str | None:
    """Return the address that an access file names; None for no file.

    Raises:
        AuthenticationError: the file is missing, or not safe to use.
        ValueError: it names none.
    """
    if access_file is None:
        return None
    access = load_access(Path(access_file))
    if access.address is None:
        raise ValueError(f"the access file {access.source} has no address: name the scheduler's, Client(address)")
    return str(access.address)


def address_of(cluster: Any) -> str:
    """Return the address of a cluster that this program has started.

    Raises:
        TypeError: the argument is no such cluster.
    """
    address = getattr(cluster, "scheduler_address", None)
    if not isinstance(address, str):
        raise TypeError(f"address must be text or a LocalCluster, got {type(cluster).__name__}")
    return address
