"""Runs that there never were: their events, and the figures of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minidask.client.events import ClusterEvent
from minidask.reporting.figures import Figures, figures
from minidask.reporting.history import History

M1, M2 = "tcp://m1:1", "tcp://m2:1"
BEGAN = 1000.0


def event(kind: str, at: float = 0.0, **fields: Any) -> ClusterEvent:
    return ClusterEvent(kind, BEGAN + at, **fields)


def snapshot(**sizes: int) -> ClusterEvent:
    """Machines by name, each with so many workers."""
    machines = [{"address": f"tcp://{name}:1", "name": name, "workers": size} for name, size in sizes.items()]
    return event("snapshot", info={"machines": machines})


def call(worker: int, at: float, seconds: float, name: str = "fit", **fields: Any) -> ClusterEvent:
    more = {"machine": M1, "how": "done", "call": 1, **fields}
    return event("call", at, worker=worker, seconds=seconds, name=name, **more)


def run(seconds: float, events: Iterable[ClusterEvent], program_cpu: float = -1.0) -> Figures:
    """The figures of a block of so many seconds."""
    history = History()
    for one in events:
        history.take(one)
    return figures(history, BEGAN, BEGAN + seconds, program_cpu)
