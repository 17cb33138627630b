"""Where a client is to connect to, if nobody has named an address in the call itself."""

from __future__ import annotations

import os
from typing import Any

from minidask.net.addresses import Address

VARIABLE = "MINIDASK_SCHEDULER"


def address_of_environment() -> str | None:
    """The address in `MINIDASK_SCHEDULER`; None if that is not set, or empty.

    Raises:
        ValueError: it is no address.
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
    """The address of a `LocalCluster`.

    Raises:
        TypeError: it is none.
    """
    address = getattr(cluster, "scheduler_address", None)
    if not isinstance(address, str):
        raise TypeError(f"address must be text or a LocalCluster, got {type(cluster).__name__}")
    return address
