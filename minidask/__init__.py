"""minidask: a small scheduler and workers behind joblib, on this machine or on a room of them.

    import joblib, minidask

    client = minidask.Client()
    with joblib.parallel_backend("minidask"):
        search.fit(X, y)

Importing this package registers the joblib backend and loads nothing else until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidask import errors
from minidask._version import __version__
from minidask.backend.register import add_to_libraries

if TYPE_CHECKING:
    from minidask.client.client import Client
    from minidask.client.events import ClusterEvent
    from minidask.client.future import Future
    from minidask.client.nested import get_client
    from minidask.launch.batch import BatchCluster, SlurmCluster
    from minidask.launch.ssh import SSHCluster
    from minidask.local.cluster import LocalCluster
    from minidask.net.tls_options import TLSFiles

__all__ = [
    "BatchCluster",
    "Client",
    "ClusterEvent",
    "Future",
    "LocalCluster",
    "SSHCluster",
    "SlurmCluster",
    "TLSFiles",
    "__version__",
    "errors",
    "get_client",
]

_HOMES = {
    "Client": "minidask.client.client",
    "ClusterEvent": "minidask.client.events",
    "Future": "minidask.client.future",
    "LocalCluster": "minidask.local.cluster",
    "BatchCluster": "minidask.launch.batch",
    "SSHCluster": "minidask.launch.ssh",
    "SlurmCluster": "minidask.launch.batch",
    "TLSFiles": "minidask.net.tls_options",
    "get_client": "minidask.client.nested",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: the daemons and slots need none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'minidask' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


add_to_libraries()
