"""How well a cluster's slots are filled, on simulated time: see `simulation.py`."""

from __future__ import annotations

import heapq
from typing import Any

import pytest
from joblib import Parallel, delayed

from tests.simulation import PREFETCH, Cluster, SimulatedBackend, Task


def best(lengths: list[float], slots: int) -> float:
    """The time that tasks take, in their order, without any overhead."""
    free = [0.0] * slots
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def parallel(cluster: Cluster, lengths: list[float], **options: Any) -> float:
    """The time that a call of joblib takes."""
    backend = SimulatedBackend(cluster)
    began = cluster.now
    results = Parallel(backend=backend, **options)(delayed(float)(length) for length in lengths)
    assert results == lengths
    return max(task.done or 0.0 for task in cluster.tasks) - began


@pytest.mark.parametrize("position", [0, 200, 400])
@pytest.mark.parametrize("batch_size", [1, "auto"])
@pytest.mark.parametrize("machines", [[4], [2, 2], [1, 1, 1, 1], [1, 3]])
@pytest.mark.parametrize("prefetch", [0, PREFETCH])
def test_a_straggler_costs_no_more_than_its_own_time(
    position: int, batch_size: Any, machines: list[int], prefetch: int
) -> None:
    lengths = [0.02] * 400
    lengths.insert(position, 5.0)
    cluster = Cluster(machines, prefetch=prefetch)
    assert parallel(cluster, lengths, batch_size=batch_size) < 1.05 * best(lengths, 4)


@pytest.mark.parametrize("slots", [2, 4])
@pytest.mark.parametrize("count", [100, 400])
def test_little_waits_in_a_batch_behind_a_straggler_wherever_it_is(count: int, slots: int) -> None:
    for position in range(0, count, count // 20):
        lengths = [0.02] * count
        lengths.insert(position, 1.0)
        assert parallel(Cluster([slots]), lengths) < 1.06 * best(lengths, slots)


@pytest.mark.parametrize("seconds", [0.0002, 0.001, 0.004])
@pytest.mark.parametrize("machines", [[4], [2, 2], [1] * 20])
def test_no_slot_idles_between_short_tasks(seconds: float, machines: list[int]) -> None:
    """Without any in advance, each idles for a round trip, 1 ms, after every task."""
    lengths = [seconds] * 1000
    bare, ahead = Cluster(machines, prefetch=0), Cluster(machines)
    ideal = best(lengths, sum(machines))
    assert parallel(bare, lengths, batch_size=1, pre_dispatch="all") > 1.15 * ideal
    assert parallel(ahead, lengths, batch_size=1, pre_dispatch="all") < 1.1 * ideal + 0.01


@pytest.mark.parametrize("seconds", [0.03, 1.0])
def test_no_long_task_waits_at_a_worker(seconds: float) -> None:
    cluster = Cluster([2, 2])
    client = cluster.client()
    for _ in range(40):
        cluster.submit(client, seconds)
    cluster.run(until=1.5 * seconds)
    assert sum(bool(task.started) for task in cluster.tasks) == 8
    late = cluster.join(4)
    cluster.run(until=1.5 * seconds + 0.002)
    assert sum(task.machine == late.name for task in cluster.tasks) == 4
    cluster.run()
    assert all(task.done is not None and len(task.started) == 1 for task in cluster.tasks)


def on(cluster: Cluster) -> list[int]:
    """How many tasks have begun on each machine."""
    return [sum(task.machine == machine.name for task in cluster.tasks) for machine in cluster.machines]


@pytest.mark.parametrize(("count", "expected"), [(9, [1, 8]), (18, [2, 16]), (100, [2, 16])])
def test_small_and_large_machines_are_filled_by_their_share(count: int, expected: list[int]) -> None:
    cluster = Cluster([2, 16])
    client = cluster.client()
    cluster.run()
    for _ in range(count):
        cluster.submit(client, 1.0)
    cluster.run(until=0.5)
    assert on(cluster) == expected


# --- several clients ---


@pytest.mark.parametrize("machines", [[1], [4], [2, 2]])
@pytest.mark.parametrize("seconds", [0.001, 0.004, 1.0])
def test_a_newcomers_first_task_waits_for_one_task_at_most(seconds: float, machines: list[int]) -> None:
    cluster = Cluster(machines)
    many, few = cluster.client(), cluster.client()
    for _ in range(3000):
        cluster.submit(many, seconds)
    cluster.run(until=20.5 * seconds)
    newcomers = [cluster.submit(few, seconds)]
    cluster.run(until=cluster.now + 3 * seconds)
    newcomers.append(cluster.submit(few, seconds))
    cluster.run(until=cluster.now + 10 * seconds + 0.01)
    ways = 4 * cluster.latency  # to the scheduler, to the worker, and that a slot is free
    assert max(task.waited for task in newcomers) <= seconds + ways + 1e-9


def test_two_clients_get_half_each() -> None:
    cluster = Cluster([2, 2])
    groups: list[list[Task]] = []
    for count in (1000, 100):
        client = cluster.client()
        groups.append([cluster.submit(client, 0.05) for _ in range(count)])
    cluster.run(until=1.5)
    begun = [sum(bool(task.started) for task in tasks) for tasks in groups]
    assert abs(begun[0] - begun[1]) <= 4, "but for the slots that were free when the first came"


# --- workers that end ---


def test_a_worker_that_is_told_to_end_finishes_what_runs_and_takes_nothing_new() -> None:
    cluster = Cluster([2, 2])
    leaving = cluster.machines[0]
    client = cluster.client()
    for _ in range(200):
        cluster.submit(client, 0.004)
    for _ in range(20):
        cluster.submit(client, 0.3)
    cluster.run(until=0.1)
    leaving.drain()
    before = [task for task in cluster.tasks if task.machine == leaving.name]
    began = cluster.now
    cluster.run(until=began + 0.5)
    assert [task for task in cluster.tasks if task.machine == leaving.name and task.started[-1] <= began] == before
    assert leaving.drained
    leaving.leave()
    cluster.run()
    assert all(task.done is not None and len(task.started) == 1 for task in cluster.tasks)
    assert all(task.started[0] <= began for task in cluster.tasks if task.machine == leaving.name)
