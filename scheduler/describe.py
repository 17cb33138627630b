"""The cluster in plain values, for people and dashboards."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from minidask.host.versions import fits

if TYPE_CHECKING:
    from .core import SchedulerCore


def describe(core: SchedulerCore, python: str = "") -> dict[str, Any]:
    """What `Client.scheduler_info()` returns: scheduler, machines, clients and task counts.

    A machine is what runs a worker daemon; its `workers` say how many tasks it runs at once.

    A client's `nested` counts the tasks that its tasks have submitted. A task that has lent its slot to another one
    does not count as running. A worker is `usable` if it takes tasks of a client with this Python.
    """
    lent = Counter(host.root.peer for worker in core.workers.values() for host in worker.guests.values())
    machines = [
        {
            **_told(w.info),
            "address": w.address,
            "name": w.name,
            "workers": w.slots,
            "tasks": len(w.tasks),
            "memory": w.memory,
            "usable": fits(python, (w.python,)),
        }
        for w in core.workers.values()
    ]
    clients = []
    for client in core.clients.values():
        if not client.nested:
            queued = core.attempts.ready.live(client)
            now = {"queued": queued, "running": client.unfinished - queued - lent[client.peer]}
            within = asdict(client.within)
            clients.append({"id": client.peer, "name": client.name, **now, **asdict(client.counts), "nested": within})
    running = sum(len(worker.tasks) - len(worker.guests) for worker in core.workers.values())
    tasks = {"queued": len(core.attempts.ready), "running": running, "finished": core.attempts.finished}
    return {**core.info, "machines": machines, "clients": clients, "tasks": tasks}


def _told(info: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key != "slots"}
