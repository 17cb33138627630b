"""Finds the address that a client connects to, if the call itself has none: in the environment, or of a cluster."""

from __future__ import annotations

import os
from typing import Any

from minidask.net.addresses import Address

VARIABLE = "MINIDASK_SCHEDULER"


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


def address_of(cluster: Any) -> str:
    """Return the address of a `LocalCluster`.

    Raises:
        TypeError: the argument is no `LocalCluster`.
    """
    address = getattr(cluster, "scheduler_address", None)
    if not isinstance(address, str):
        raise TypeError(f"address must be text or a LocalCluster, got {type(cluster).__name__}")
    return address
