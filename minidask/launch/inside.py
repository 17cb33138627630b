"""What runs inside a process of another system, Dask's or Ray's: it holds a worker of ours as long as it lives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minidask.host.folders import runtime_folder
from minidask.launch.cluster import LaunchedCluster
from minidask.launch.engine import ALIVE, Engine, Plan
from minidask.launch.tethered import Tethered

_held: dict[str, Tethered] = {}


@functools.cache
def _folder() -> Path:
    return runtime_folder()


def hold(name: str, command: list[str], access: bytes) -> None:
    """Start a worker that ends with this process, or with `let_go`."""
    _held[name] = Tethered(command, access, _folder() / f"{name}.log")


def let_go(name: str) -> None:
    """Have it drain and end."""
    _held[name].let_go()


def state(name: str) -> str:
    """Return `ALIVE`, or why it has ended."""
    return ALIVE if _held[name].is_alive() else _held[name].last_words


def whole(engine: Callable[[Plan], Engine], nodes: int, **options: Any) -> LaunchedCluster:
    """Make a cluster with a worker on each of the nodes, and wait until they have joined.

    Raises:
        MinidaskError: none has joined. The error says why, for each.
    """
    cluster = LaunchedCluster(engine, **options)
    try:
        cluster.start(nodes)
        cluster.wait_for_machines()
    except BaseException:
        cluster.close()
        raise
    return cluster
