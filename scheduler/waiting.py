"""Why a task waits, or where it is: one plain sentence, for the people who ask. Pure.

The answer names what stands in the way now, the strongest reason first:

    Ready      its client does not read ─► no worker, or none of its Python, or with its resources ─► its one machine
               is busy ─► its call is at its limit ─► its resources are in use ─► all workers are busy, and others are
               before it
    Running    its data is under way ─► it waits at the machine for a worker ─► it waits for tasks within ─► it runs

Nothing is kept for this: all is read from the tables when somebody asks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from minidask.host.sizes import count, format_bytes
from minidask.host.versions import fits

from .amounts import free_of, shown, suffice
from .blobs import BlobTable
from .ready import ReadyQueue
from .tasks import Cancelled, ClientRecord, Delivering, Running, TaskRecord, WorkerRecord

MAX_NAMED = 5
"""So many machines, or others of a kind, are named; of more only the number."""
MAX_TEXT = 500

UNKNOWN = "it is over, or was never submitted here"


def explained(
    task: TaskRecord | None,
    workers: Mapping[int, WorkerRecord],
    clients: Mapping[int, ClientRecord],
    ready: ReadyQueue,
    blobs: BlobTable,
) -> str:
    """Say why a task waits, or where it is.

    Args:
        task: None if there is no such task.
        workers, clients: all of them, by peer.
        ready: the queue of ready tasks.
        blobs: all blobs.
    """
    if task is None:
        return UNKNOWN
    if isinstance(task.state, Running):
        text = _running(task, task.state.worker, blobs)
    elif isinstance(task.state, Delivering):
        text = f"it has returned on machine {task.state.worker.name}, and its client fetches the result"
    elif isinstance(task.state, Cancelled):
        text = f"it was cancelled, and runs on machine {task.state.worker.name} until it has stopped"
    else:
        text = f"it waits: {_waiting(task, workers, clients, ready)}"
    return text + _story(task)


def _story(task: TaskRecord) -> str:
    return f"; attempts before, {len(task.story)}: {task.story[-1][:MAX_TEXT]}" if task.story else ""


# --- on a worker ---


def _running(task: TaskRecord, worker: WorkerRecord, blobs: BlobTable) -> str:
    coming = [blob for blob in task.blobs if _is_coming(blob, worker, blobs)]
    if coming:
        size = format_bytes(sum(blobs.size(blob) for blob in coming))
        return f"it waits on machine {worker.name} for its data, of which {size} are being fetched"
    if worker.free < 0 and task.id not in worker.guests:
        more = count(-worker.free, "task")
        return f"it is on machine {worker.name}, which has {more} more than workers: it runs, or is one of the next"
    if task.nest is not None and task.nest.waits and task.nest.children:
        return f"it is on machine {worker.name}, and waits for {count(len(task.nest.children), 'task')} within it"
    return f"it runs on machine {worker.name}, attempt {task.attempt}"


def _is_coming(blob: bytes, worker: WorkerRecord, blobs: BlobTable) -> bool:
    record = blobs.records.get(blob)
    copy = record.copies.get(worker.peer) if record is not None else None
    return copy is not None and not copy.complete


# --- ready ---


def _waiting(
    task: TaskRecord,
    workers: Mapping[int, WorkerRecord],
    clients: Mapping[int, ClientRecord],
    ready: ReadyQueue,
) -> str:
    if task.root.lags:
        return "its client does not read what it is sent, and none of its tasks begins before it does"
    serving = [worker for worker in workers.values() if worker.slots]
    if not serving:
        return "there is no worker in the cluster; start some with minidask-worker"
    python = task.client.python
    fitting = [worker for worker in serving if fits(python, (worker.python,))]
    if not fitting:
        others = sorted({worker.python for worker in serving})
        return f"no worker has Python {python}; those that are there have {_listed(others)}"
    able = [worker for worker in fitting if suffice(worker.resources, task.needs)]
    if not able:
        return f"no worker has {shown(task.needs)}{_most(task, fitting)}"
    if task.pin is not None:
        return _pinned(next((w for w in workers.values() if w.address == task.pin), None), task.pin)
    if task.group is not None and task.group.full:
        return f"its call may run {task.group.limit} at once, and so many run{_before(task, ready, clients)}"
    if task.needs and not any(suffice(free_of(worker), task.needs) for worker in able):
        return f"{shown(task.needs)} is not free on {_named(able)}: other tasks have it{_before(task, ready, clients)}"
    free = [worker for worker in able if worker.free > 0 and not worker.lags and suffice(free_of(worker), task.needs)]
    if free:
        return f"a worker is free on {_named(free)}, and it goes there in a moment"
    slow = [worker for worker in able if worker.lags]
    if len(slow) == len(able):
        return f"no machine that could run it reads what it is sent, so the network is slow: {_named(slow)}"
    slots = sum(worker.slots for worker in able)
    which = f" with Python {python}" if len(fitting) < len(serving) else ""
    which += f" with {shown(task.needs)}" if len(able) < len(fitting) else ""
    held = sum(len(worker.held) for worker in able)
    kept = f" ({held} of them with tasks of clients that were cut off)" if held else ""
    busy = f"the only worker{which} is busy" if slots == 1 else f"all {slots} workers{which} are busy"
    return f"{busy}{kept}{_before(task, ready, clients)}{_pace(task, ready, slots)}"


def _most(task: TaskRecord, workers: Collection[WorkerRecord]) -> str:
    """Which amounts there are of what a task needs, at most."""
    there = [(name, max(worker.resources.get(name, 0) for worker in workers)) for name, _ in task.needs]
    there = [(name, amount) for name, amount in there if amount]
    which = f"; the most that one has: {shown(there)}" if there else ""
    return f"{which}; start one with minidask-worker --resources {shown(task.needs).replace(' ', ',')}"


def _pinned(worker: WorkerRecord | None, address: str) -> str:
    if worker is None:
        return f"only machine {address} may run it, and that is away"
    if worker.lags:
        return f"only machine {worker.name} may run it, which does not read what it is sent"
    if worker.free > 0:
        return f"it goes to machine {worker.name} in a moment"
    busy = "whose only worker is busy" if worker.slots == 1 else f"whose {worker.slots} workers are all busy"
    return f"only machine {worker.name} may run it, {busy}"


def _before(task: TaskRecord, ready: ReadyQueue, clients: Mapping[int, ClientRecord]) -> str:
    """Who else waits: what of the same client comes first, and with whom the client takes turns."""
    before = ready.before(task)
    own = f"; of its own client {before:,} {'is' if before == 1 else 'are'} before it" if before else ""
    others = [client for client in clients.values() if client is not task.root and ready.count(client)]
    if not others:
        return own or "; it is the next one"
    names = _listed([f"{client.name} ({ready.count(client):,} wait)" for client in others])
    return f"{own}; its client takes turns with {names}"


def _pace(task: TaskRecord, ready: ReadyQueue, slots: int) -> str:
    """About how long that takes, where durations were measured, and the client is alone."""
    seconds = task.group.seconds if task.group is not None else task.client.seconds.get(task.name)
    if seconds is None or len(ready) != ready.count(task.root):
        return ""
    left = _rounded(seconds * (ready.before(task) / slots + 1))
    return f"; at the present pace that takes about {count(left, 'second')}"


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.1g}")


def _named(workers: Collection[WorkerRecord]) -> str:
    return f"{'machine' if len(workers) == 1 else 'machines'} {_listed([worker.name for worker in workers])}"


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - MAX_NAMED:,} more" if len(found) > MAX_NAMED else ""
    return ", ".join(found[:MAX_NAMED]) + more
