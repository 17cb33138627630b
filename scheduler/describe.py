"""The cluster in plain values, for people, dashboards and progress bars. Pure.

It is one dict, made anew for each client that asks. So nothing has to be kept up to date for it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from minidask.host.versions import fits

from .amounts import resources_of
from .ready import ReadyQueue
from .tasks import ClientRecord, WorkerRecord

MOST_NEEDS = 100


def describe(
    info: dict[str, Any],
    workers: dict[int, WorkerRecord],
    clients: dict[int, ClientRecord],
    ready: ReadyQueue,
    finished: int,
    python: str = "",
) -> dict[str, Any]:
    """The dict that `Client.scheduler_info()` returns: the scheduler, its machines, its clients, counts of tasks.

    A machine is one worker daemon; its `workers` is the number of its slots. A client's `nested` counts the tasks
    within its tasks. A task that has lent its slot does not count as running. `needs` has how many of the queued tasks
    need which resources, the `MOST_NEEDS` most frequent kinds.

    Args:
        info: the scheduler's own entries.
        workers, clients: all of them, by peer.
        ready: the queue of ready tasks.
        finished: how many tasks are over.
        python: the asking client's Python, as "3.11". A machine is `usable` if it runs tasks of that Python.
    """
    lent = Counter(host.root.peer for worker in workers.values() for host in worker.guests.values())
    machines = [
        {
            **{key: value for key, value in w.info.items() if key != "slots"},
            "address": w.address,
            "name": w.name,
            "workers": w.slots,
            "tasks": len(w.tasks),
            "memory": w.memory,
            "usable": fits(python, (w.python,)),
        }
        for w in workers.values()
    ]
    described = []
    for client in clients.values():
        if not client.nested:
            queued = ready.count(client)
            now = {"queued": queued, "running": client.unfinished - queued - lent[client.peer]}
            within = asdict(client.within)
            described.append({"id": client.peer, "name": client.name, **now, **asdict(client.counts), "nested": within})
    running = sum(len(worker.tasks) - len(worker.guests) for worker in workers.values())
    tasks = {"queued": len(ready), "running": running, "finished": finished}
    needs = [[resources_of(needs), count] for needs, count in ready.needed().most_common(MOST_NEEDS)]
    return {**info, "machines": machines, "clients": described, "tasks": tasks, "needs": needs}
