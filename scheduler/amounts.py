"""Resources: what a machine has beside its slots, in amounts with names, and how much of it is free. Pure.

    minidask-worker --resources gpu=2        client.submit(fit, resources={"gpu": 1})

What a name stands for is between those who start workers and those who submit. The scheduler only counts: a task begins
where there is enough of all that it needs, and holds that as long as it has its slot. So it holds it until its attempt
has ended, in whichever way, and no longer than that while its client still fetches the result.

*Nothing is written down that would have to be taken back.* What is free follows from the tasks that a worker has. So a
slot that dies, a lost worker, a cancelled task or one that was adopted from a lost scheduler are no cases of their own.

*A guest has what its hosts hold.* It runs on top of tasks that wait for it (`nesting.py`), in their process. A task
that has the only GPU, and waits for a task within it that needs a GPU, would otherwise wait for ever.

*An attempt that nobody knows may hold anything.* Its worker has brought it along from a lost scheduler, and its client
is not back (`holds.py`). Until then no task that needs something begins on that worker: for 10 seconds at most. One
that is stopped, as nobody wants it, still holds what it needs until its worker says that it is over.

Amounts are whole numbers of millionths here. With floats, three times 0.1 would not fit into 0.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .tasks import Amounts, Delivering, Needs, TaskRecord, WorkerRecord

UNIT = 1_000_000


def amounts_of(resources: Mapping[str, float]) -> Amounts:
    """The resources of a worker, as it has told them."""
    return {name: round(amount * UNIT) for name, amount in resources.items()}


def needs_of(resources: Mapping[str, float]) -> Needs:
    """The resources that a task needs, as its client has told them."""
    return tuple(sorted(amounts_of(resources).items()))


def resources_of(needs: Needs) -> dict[str, float]:
    """The resources that a task needs, as its client has told them."""
    return {name: amount / UNIT for name, amount in needs}


def shown(needs: Iterable[tuple[str, int]]) -> str:
    """Amounts for people, as `gpu=1 memory=0.5`."""
    return " ".join(f"{name}={amount / UNIT:.15g}" for name, amount in needs)


def suffice(amounts: Mapping[str, int], needs: Needs) -> bool:
    """Whether there is enough of all that is needed."""
    return all(amounts.get(name, 0) >= amount for name, amount in needs)


def free_of(worker: WorkerRecord, host: TaskRecord | None = None) -> Amounts:
    """What is free on a worker; for a guest of this host, with what the tasks below it hold."""
    free = dict(worker.resources)
    for held in (*worker.held.values(), *worker.ending.values()):
        for name, amount in worker.resources.items() if held is None else held:
            free[name] = free.get(name, 0) - amount
    for task in worker.tasks.values():
        if task.needs and type(task.state) is not Delivering:
            below = _held_below(worker, worker.guests.get(task.id))
            for name, amount in task.needs:
                free[name] = free.get(name, 0) - max(0, amount - below.get(name, 0))
    for name, amount in _held_below(worker, host).items():
        free[name] = free.get(name, 0) + amount
    return free


def _held_below(worker: WorkerRecord, host: TaskRecord | None) -> Amounts:
    """What a host and those that it runs on top of hold together."""
    held: Amounts = {}
    while host is not None:
        for name, amount in host.needs:
            held[name] = max(held.get(name, 0), amount)
        host = worker.guests.get(host.id)
    return held
