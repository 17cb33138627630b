"""A glance at the cluster: its events for a moment, until each machine has told what runs there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from minidask.client.state import ClusterState, MachineState

if TYPE_CHECKING:
    from minidask.client.eventreader import EventReader

MOST_CALLS = 8
"""So many of a machine are shown; of more only the number."""


def glance(events: EventReader, seconds: float, *, wait: bool = True) -> ClusterState | None:
    """Read events, for `seconds` at most; None if no snapshot came.

    Args:
        wait: until all machines have told what runs there.
    """
    state: ClusterState | None = None
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not events.closed:
        for event in events.get(left):
            if event.kind == "snapshot":
                state = ClusterState()
            if state is not None:
                state.take(event)
        if state is not None and not (wait and any(m.size and not m.usage for m in state.machines.values())):
            break
    return state


def names_of(machine: MachineState) -> list[str]:
    """The names of the calls that run on a machine, one for each busy worker."""
    return [worker.name for _, worker in sorted(machine.workers.items()) if not worker.info["idle"]]


def shown(machine: MachineState) -> str:
    """What runs on a machine, in a line; empty if it has not told."""
    if not machine.usage:
        return ""
    busy = sorted((w for w in machine.workers.values() if not w.info["idle"]), key=_seconds, reverse=True)
    calls = [f"{worker.name} {_short(worker.seconds)}" for worker in busy[:MOST_CALLS]]
    calls += [f"{len(busy) - MOST_CALLS} more"] if len(busy) > MOST_CALLS else []
    idle = len(machine.workers) - len(busy)
    return ", ".join([*calls, *([f"{idle} idle"] if idle else [])])


def _seconds(worker: Any) -> float:
    return float(worker.seconds)


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"
