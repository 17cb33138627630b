"""What is true of the scheduler's state between any two events; the tests check it after each event.

Much of the state is kept twice, so that no decision has to search: a task is in its client's table and on its worker, a
queue counts what it holds. This file says what has to agree.
"""

from __future__ import annotations

from collections import Counter

from minidask.host.versions import fits
from minidask.wire.messages import OUTLIVES

from .amounts import free_of
from .blobs import RELAY, BlobRecord
from .core import SchedulerCore
from .quota import RECORD_BYTES
from .tasks import Cancelled, Delivering, Ready, Running, TaskRecord


def check(core: SchedulerCore) -> None:
    """Check the whole state.

    Raises:
        AssertionError: it is inconsistent, and where.
    """
    for task in core.attempts.tasks.values():
        _check_task(core, task)
    _check_workers(core)
    _check_clients(core)
    _check_groups(core)
    _check_nesting(core)
    _check_resources(core)
    _check_idle_notices(core)
    _check_restarts(core)
    _check_logs(core)
    _check_blobs(core)
    _check_quota(core)


def _check_task(core: SchedulerCore, task: TaskRecord) -> None:
    state = task.state
    if isinstance(state, Running | Delivering | Cancelled):
        assert core.workers.get(state.worker.peer) is state.worker, f"{task} is on a lost worker"
        assert state.worker.tasks.get(task.id) is task, f"{task} is not in its worker's load"
    else:
        assert isinstance(state, Ready), f"{task} has ended but is still known"
        assert task.payload, f"{task} waits without its payload"
    if task.client.peer not in core.clients or task.root.peer not in core.clients:
        assert isinstance(state, Cancelled), f"{task} is kept for a client that left"
    assert task.client.tasks.get(task.number) is task, f"{task} is unknown to its client"


def _check_workers(core: SchedulerCore) -> None:
    for worker in core.workers.values():
        for task in worker.tasks.values():
            assert core.attempts.tasks.get(task.id) is task, f"{worker.name} holds {task}, which is over"
            assert isinstance(task.state, Running | Delivering | Cancelled), f"{worker.name} holds {task}"
            assert task.pin in (None, worker.address), f"{task} is on the wrong worker"
            assert fits(task.client.python, (worker.python,)), f"{task} is on a worker of another Python"
        delivering = sum(isinstance(task.state, Delivering) for task in worker.tasks.values())
        assert worker.delivering == delivering, f"{worker.name} miscounts the results that are fetched"
        idle, spare = core.pool.idle, core.pool.spare
        in_idle, in_spare = worker.peer in idle.get(worker.python, ()), worker.peer in spare.get(worker.python, ())
        assert in_idle == (worker.free > 0 and not worker.lags), (
            f"{worker.name} has {worker.free} free slots, idle: {in_idle}"
        )
        assert not in_spare or worker.free > -worker.prefetch, f"{worker.name} is over its load"
        assert worker.blobs <= core.blobs.records.keys(), f"{worker.name} keeps blobs that are gone"
    for pool in (core.pool.idle, core.pool.spare):
        for python, workers in pool.items():
            assert workers, f"the pool keeps Python {python}, which no worker in it has"
            assert workers.keys() <= core.workers.keys(), "a lost worker is still offered tasks"
            assert all(w.python == python for w in workers.values()), (
                "a worker is offered for another Python than its own"
            )


def _check_clients(core: SchedulerCore) -> None:
    waiting = Counter(t.root.peer for t in core.attempts.tasks.values() if isinstance(t.state, Ready) and t.pin is None)
    unfinished = Counter(t.root.peer for t in core.attempts.tasks.values())
    for client in core.clients.values():
        assert client.unfinished == unfinished[client.peer], f"the tasks behind client {client.name} are miscounted"
        assert core.ready.count(client) == waiting[client.peer], f"the queue miscounts client {client.name}"
        own = sum(task.parent is None for task in client.tasks.values())  # a client within a task submits for that too
        assert client.counts.unfinished == own, f"client {client.name} is miscounted"
        for task in client.tasks.values():
            assert core.attempts.tasks.get(task.id) is task, f"client {client.name} still has {task}"
    assert len(core.ready) == sum(waiting.values()), "the queue keeps tasks of a client that left"
    assert core.ready.peers() <= core.clients.keys(), "the queue keeps a client that left"


def _check_groups(core: SchedulerCore) -> None:
    running: Counter[int] = Counter()
    adopted: Counter[int] = Counter()  # they began before the group was opened here, and may be more than its limit
    for task in core.attempts.tasks.values():
        if task.group is not None and isinstance(task.state, Running | Cancelled):
            running[id(task.group)] += 1
            adopted[id(task.group)] += task.id >= OUTLIVES and task.id // OUTLIVES != task.client.keys[0]
    for group in {id(t.group): t.group for t in core.attempts.tasks.values() if t.group}.values():
        assert group.running == running[id(group)], f"group {group.number} miscounts its running tasks"
        most = group.limit + adopted[id(group)]
        assert not group.limit or group.running <= most, f"group {group.number} is over its limit"


def _check_nesting(core: SchedulerCore) -> None:
    for task in core.attempts.tasks.values():
        if task.parent is not None and not isinstance(task.state, Cancelled):
            assert core.attempts.tasks.get(task.parent.id) is task.parent, f"{task} has outlived its parent"
            assert isinstance(task.parent.state, Running | Cancelled), f"the parent of {task} does not run"
            assert task.parent.nest is not None and task.id in task.parent.nest.children, f"{task} is nobody's child"
        if task.nest is not None and task.nest.waits:
            assert isinstance(task.state, Running | Cancelled), f"{task} waits and does not run"
    for worker in core.workers.values():
        guests = {task.id: task.nest.guest for task in worker.tasks.values() if task.nest and task.nest.guest}
        hosts = {host.id: worker.tasks[number] for number, host in worker.guests.items() if host.id in worker.tasks}
        assert guests == hosts, f"{worker.name} miscounts what runs in lent slots"
        for guest in worker.guests:
            assert isinstance(worker.tasks[guest].state, Running | Cancelled), f"{worker.name} has guests that are over"


def _check_resources(core: SchedulerCore) -> None:
    """No worker lends more than it has; a guest may have what its hosts have. Adopted attempts began elsewhere."""
    for worker in core.workers.values():
        held: Counter[str] = Counter()
        adopted = bool(worker.held or worker.ending)
        tops = worker.tasks.keys() - {host.id for host in worker.guests.values()}
        for task in [worker.tasks[number] for number in tops]:
            stack: Counter[str] = Counter()
            below: TaskRecord | None = task
            while below is not None:
                stack |= Counter(dict(below.needs) if not isinstance(below.state, Delivering) else {})
                adopted |= below.id >= OUTLIVES and below.id // OUTLIVES != below.client.keys[0]
                below = worker.guests.get(below.id)
            held += stack
        assert adopted or held <= Counter(worker.resources), f"{worker.name} lends {held}, and has {worker.resources}"
        if not held and not worker.held and not worker.ending:
            assert free_of(worker) == worker.resources, f"{worker.name} has nothing to do, and keeps resources"
    for task in core.attempts.tasks.values():
        if task.needs and isinstance(task.state, Ready):
            assert task.pin is None and not task.lease, f"{task} needs resources where nobody looks for them"


def _check_idle_notices(core: SchedulerCore) -> None:
    for client, groups in core.idle_notices.subscribers.values():
        assert core.clients.get(client.peer) is client, "a client that left is told of idle slots"
        assert groups.keys() <= client.groups.keys(), f"client {client.name} is told of idle slots for a closed group"


def _check_logs(core: SchedulerCore) -> None:
    for reader in core.answers.logs.readers.values():
        assert reader.client in core.clients, "a client that left waits for a log"
        assert reader.worker in core.workers, "a client waits for the log of a worker that left"
    waiting = Counter(reader.client for reader in core.answers.logs.readers.values())
    assert waiting == core.answers.logs.waiting, "requests for logs are counted wrongly"


def _check_restarts(core: SchedulerCore) -> None:
    for waiter in core.restarts.waiters.values():
        assert waiter.client in core.clients, "a client that left waits for fresh slots"
        assert waiter.workers, "a restart is over, and its client was not told"
        assert waiter.workers <= core.workers.keys(), "a client waits for the fresh slots of a worker that left"


def _check_blobs(core: SchedulerCore) -> None:
    users = Counter(name for task in core.attempts.tasks.values() for name in task.blobs)
    users.update(core.holds.blobs())
    for name, record in core.blobs.records.items():
        assert record.users == users[name], f"blob {name.hex()} miscounts its users"
        assert record.users or record.holders, f"blob {name.hex()} is kept for nobody"
        assert record.holders.keys() <= core.clients.keys(), f"blob {name.hex()} is kept for a client that left"
        _check_copies(core, name, record)
    assert users.keys() <= core.blobs.records.keys(), "a task's blob is gone"


def _check_quota(core: SchedulerCore) -> None:
    kept: Counter[int] = Counter()
    for task in core.attempts.tasks.values():
        kept[task.client.peer] += task.kept
    for record in core.blobs.records.values():
        kept.update(record.charged)
        assert record.holders.keys() <= record.charged.keys(), "a blob is kept that its client is not charged for"
    for client in core.clients.values():
        kept[client.peer] += RECORD_BYTES * len(client.groups)
    assert core.quota.kept == +kept and core.quota.total == kept.total(), "what is kept for clients is miscounted"


def _check_copies(core: SchedulerCore, name: bytes, record: BlobRecord) -> None:
    """Every chain of copies under way ends at a complete copy or at the client: no ring, no source that is gone."""
    for peer, copy in record.copies.items():
        assert name in core.workers[peer].blobs, "a copy is kept of a blob that its worker was not told to get"
        steps = 0
        while not copy.complete and copy.source != RELAY:
            assert core.workers[copy.source].serves, "a worker was told to fetch where nobody serves"
            copy = record.copies[copy.source]
            steps += 1
            assert steps <= len(record.copies), f"blob {name.hex()} is fetched in a ring"
