"""A forked child: what it inherits, what it must not touch, and the one list of what is put right in it.

User code forks: `multiprocessing` does on Linux, and so does `os.fork` in a task. The child is a copy of the parent at
one moment, with one difference: only the thread that forked exists in it.

    parent                             child
    ──────                             ─────
    threads: main, reading, output     threads: the one that forked
    locks:   may be held right now     locks:   those held by other threads stay locked for ever
    sockets: one connection            sockets: the same connection, and its bytes can go to either process
    files:   the store's, mapped       files:   the same mappings; pins and folders are the parent's
    node:    ends with the parent      node:    must not live on because the child holds its control socket

From this follow the rules of the callbacks below:

- A lock that another thread may have held is replaced, not released.
- A connection is dropped without a word: the child closes its descriptors, and never writes to them, since a farewell
  would end the parent's connection.
- Futures of the parent fail in the child at once, as no thread will ever settle them there. A callback takes no lock
  and waits for nothing.
- Nothing that the parent owns is removed: folders carry the parent's number, and the node is the parent's.
- A task that forks has left its slot: the child belongs to no slot, and a `Parallel` in it starts afresh.

`os.register_at_fork` runs its functions in the order in which modules were imported, which nobody can see. Here the
order is the one that is written down: `on_fork` takes the layer, lower layers come first. So locks are fresh before
code of a client runs that may need them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from enum import IntEnum


class Layer(IntEnum):
    """When a callback runs in a forked child, lowest first."""

    LOCKS = 0
    """Replaces locks of a module."""
    TASK = 1
    """Leaves the slot that the parent works for."""
    CLIENTS = 2
    """Drops connections and futures."""
    CLUSTERS = 3
    """Lets go of clusters, which clients may name until then."""
    SCREEN = 4
    """Drops progress bars, which clients may name until then."""


_callbacks: dict[Layer, list[Callable[[], None]]] = {layer: [] for layer in Layer}


def on_fork(layer: Layer, callback: Callable[[], None]) -> None:
    """Have `callback()` called in every forked child, after the callbacks of lower layers. Python prints its errors."""
    _callbacks[layer].append(callback)


def _run(layer: Layer) -> None:
    for callback in _callbacks[layer]:
        callback()


for _layer in Layer:
    os.register_at_fork(after_in_child=functools.partial(_run, _layer))
