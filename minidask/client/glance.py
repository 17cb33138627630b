"""A glance at the cluster: its events for a moment, until each machine has told what runs there."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from minidask.client.state import ClusterState, MachineState
from minidask.host.sizes import count

if TYPE_CHECKING:
    from minidask.client.eventreader import EventReader
    from minidask.client.events import ClusterEvent

MOST_PACKAGES = 3
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


def doing(worker: ClusterEvent) -> str:
    """What a worker does, as "fit, importing sklearn"; empty if nothing."""
    name, package = "" if worker.info["idle"] else worker.name, worker.info.get("importing")
    return ", ".join(filter(None, (name, f"importing {package}" if package else "")))


def importing(machines: Iterable[MachineState]) -> str:
    """Say what workers import now, as "4 workers are importing sklearn"; empty if none does."""
    workers = [worker for machine in machines for worker in machine.workers.values()]
    packages = collections.Counter(name for worker in workers if (name := worker.info.get("importing")))
    if not packages:
        return ""
    (first, n), *others = packages.most_common(MOST_PACKAGES)
    more = "".join(f", {n} {name}" for name, n in others)
    return f"{count(n, 'worker')} {'is' if n == 1 else 'are'} importing {first}{more}"


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
