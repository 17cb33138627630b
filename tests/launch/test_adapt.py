"""How many machines: on virtual time, against bursts, and against the ways in which others have gone wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidask.launch.adapt import Adaptive, Backlog, Decision, JoinedMachine
from minidask.launch.cluster import see, slots_of
from tests.launch.simulated import SimulatedCluster


def test_a_burst_gets_machines_and_they_go_when_it_is_over() -> None:
    cluster = SimulatedCluster(Adaptive(0, 10, idle=60))
    cluster.run(30)
    assert not cluster.machines
    cluster.submit(400, 10)
    assert cluster.run_until_done() < 10 + 5 + 400 * 10 / 40 + 10
    assert cluster.started == 10
    cluster.run(55)
    assert len(cluster.machines) == 10
    cluster.run(10)
    assert not cluster.machines
    assert not cluster.idle_stops


def test_short_tasks_that_are_soon_done_get_one_machine_once_their_duration_is_known() -> None:
    cluster = SimulatedCluster(Adaptive(0, 10, idle=1000))
    cluster.submit(4, 0.1)
    cluster.run_until_done()
    started = cluster.started
    cluster.submit(200, 0.1)
    cluster.run_until_done()
    assert cluster.started == started


def test_a_queue_that_stays_short_and_never_empty_gets_more_machines() -> None:
    # joblib submits the next call when one has ended: as many wait as there are slots, however many there will be.
    cluster = SimulatedCluster(Adaptive(1, 10, idle=60, worth=10))
    cluster.stream = 0.5
    cluster.run(100)
    assert len(cluster.machines) == 10


def test_never_more_machines_than_tasks_need() -> None:
    cluster = SimulatedCluster(Adaptive(0, 100), delay=300)
    cluster.submit(9, 60)
    cluster.run(1)  # nobody knows how many tasks a machine takes, before one has joined
    assert len(cluster.machines) == 9
    known = SimulatedCluster(Adaptive(1, 100), delay=1)
    known.run(10)
    known.submit(9, 600)
    known.run(30)
    assert len(known.machines) == 3


def test_one_machine_stays_while_a_client_is_connected() -> None:
    cluster = SimulatedCluster(Adaptive(0, 5, idle=10))
    cluster.clients = 1
    cluster.run(100)
    assert (len(cluster.machines), cluster.started) == (1, 1)
    cluster.clients = 0
    cluster.run(20)
    assert not cluster.machines


# --- the ways in which others have gone wrong ---


def test_machines_whose_time_is_over_are_replaced_and_the_minimum_holds() -> None:
    """dask-jobqueue #122: machines ended at their time limit, and nobody asked for others."""
    cluster = SimulatedCluster(Adaptive(2, 4, idle=60), delay=3, walltime=100)
    cluster.run(1000)
    assert len(cluster.machines) in (2, 3, 4)
    assert 18 <= cluster.started <= 22
    cluster.submit(3000, 10)
    assert cluster.run_until_done(10_000) < 1.3 * 3000 * 10 / 16


def test_machines_that_all_end_at_once_in_the_middle_of_a_call_are_all_replaced() -> None:
    """dask-jobqueue #611: `adapt(minimum=6)`, and once the first jobs' time was over nothing ran any more."""
    cluster = SimulatedCluster(Adaptive(6, 12, idle=60), delay=10, walltime=100, slots=2)
    cluster.submit(1200, 10)
    while cluster.queue:
        cluster.run(20)
        assert len(cluster.machines) >= 6, f"at {cluster.now} seconds, with {len(cluster.queue)} tasks left"
        assert cluster.now < 1.5 * 1200 * 10 / 24
    cluster.run_until_done()
    assert cluster.started >= 5 * 12, "five times all were replaced"
    assert not cluster.idle_stops


def test_what_was_asked_for_is_left_alone_until_it_comes() -> None:
    """dask-jobqueue #498: in an endless loop, jobs were cancelled and submitted again before their workers joined."""
    cluster = SimulatedCluster(Adaptive(0, 6, idle=60), delay=900, slots=20)
    cluster.submit(1000, 1)
    cluster.run(899)
    assert (cluster.started, len(cluster.stopped)) == (6, 0)
    cluster.run_until_done()
    assert cluster.started == 6


def test_a_lull_between_bursts_does_not_send_machines_away_that_the_next_burst_needs() -> None:
    """dask-jobqueue #701: each computation of a series had its machines queue anew."""
    cluster = SimulatedCluster(Adaptive(0, 8, idle=60), delay=20)
    for _ in range(10):
        cluster.submit(200, 5)
        cluster.run_until_done()
        cluster.run(40)
    assert cluster.started == 8
    assert not cluster.stopped


def test_no_machine_is_cancelled_before_it_has_done_any_work_while_there_is_work() -> None:
    """seamless #261: many jobs were cancelled before they had done anything, and each cost its tasks an attempt."""
    cluster = SimulatedCluster(Adaptive(0, 10, idle=60), delay=30)
    for _ in range(20):
        cluster.submit(40, 8)
        cluster.run(35)
    cluster.run_until_done()
    assert not cluster.idle_stops
    assert cluster.started <= 10


def test_machines_that_end_before_they_join_are_asked_for_less_and_less_often() -> None:
    cluster = SimulatedCluster(Adaptive(1, 4), breaks=True)
    cluster.run(600)
    assert 5 <= cluster.started <= 12
    cluster.breaks = False
    cluster.run(300)
    assert len(cluster.machines) == 1


def test_at_the_end_of_a_burst_idle_machines_go_and_the_last_tasks_keep_theirs() -> None:
    """dask-jobqueue #190: while the last long tasks ran, machines came and went."""
    cluster = SimulatedCluster(Adaptive(0, 5, idle=30), slots=1)
    cluster.submit(15, 5)
    cluster.queue.insert(0, 500)
    cluster.run(300)
    assert (len(cluster.machines), cluster.started) == (1, 5)
    cluster.run_until_done()


def info(machines: int, queued: int, needs: dict[str, float], **resources: float) -> dict[str, Any]:
    """What a scheduler says whose queued tasks all need this, and whose idle machines all have those resources."""
    machine = {"workers": 8, "tasks": 0, "resources": resources}
    return {
        "machines": [{"name": f"m{number}", **machine} for number in range(machines)],
        "clients": [{"name": "ann"}],
        "tasks": {"queued": queued, "running": 0, "finished": 0},
        "needs": [[needs, queued]],
    }


@pytest.mark.parametrize(
    ("needs", "has", "slots"),
    [
        ({"gpu": 1}, {"gpu": 1}, 8),
        ({"gpu": 0.25}, {"gpu": 1}, 2),
        ({"gpu": 0.1}, {"gpu": 0.3}, 8 / 3),  # with floats, 0.3 // 0.1 is 2
        ({"gpu": 1, "memory": 4e9}, {"gpu": 4, "memory": 8e9}, 4),
        ({"gpu": 1}, {"gpu": 100}, 1),
        ({"gpu": 2}, {"gpu": 1}, 0),
        ({"gpu": 1, "license": 1}, {"gpu": 1}, 0),
        ({"gpu": 1}, {}, 0),
    ],
)
def test_a_task_takes_up_the_slots_that_nobody_else_can_use(
    needs: dict[str, float], has: dict[str, float], slots: float
) -> None:
    machine = {"workers": 8, "resources": has}
    assert slots_of(needs, [machine]) == pytest.approx(slots)
    assert slots_of(needs, [machine, {"workers": 8, "resources": {}}]) == pytest.approx(slots)
    assert slots_of(needs, []) == 1  # nobody knows yet


def test_tasks_that_need_what_no_machine_has_ask_for_no_machine_and_keep_none() -> None:
    adaptive, names = Adaptive(0, 10, idle=60), [f"m{number}" for number in range(4)]
    started, kept = 0, len(names)
    for second in range(1000):
        seen = see(info(kept, 50, {"gpu": 1.0}, big=1.0), names[:kept], 0)
        decision = adaptive.decide(seen, float(second))
        started += decision.start
        kept -= len(decision.stop)
    assert (started, kept) == (0, 1)  # one stays while a client is connected


def test_tasks_that_need_a_gpu_each_get_as_many_machines_as_have_so_many() -> None:
    seen = see(info(1, 9, {"gpu": 1.0}, gpu=1.0), ["m0"], 0)
    assert Adaptive(0, 100).decide(seen, 0.0).start == 9 - 1
    seen = see(info(1, 9, {"gpu": 1.0}, gpu=4.0), ["m0"], 0)
    assert Adaptive(0, 100).decide(seen, 0.0).start == 3 - 1


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 200), st.sampled_from([0.2, 1.0, 20.0]), st.integers(0, 200)), max_size=6),
    st.integers(0, 3),
    st.integers(3, 8),
    st.sampled_from([1.0, 30.0, 200.0]),
    st.sampled_from([60.0, 1e9]),
)
def test_whatever_comes_all_is_done_none_that_works_is_stopped_and_all_go(
    bursts: list[tuple[int, float, int]], minimum: int, maximum: int, delay: float, walltime: float
) -> None:
    cluster = SimulatedCluster(Adaptive(minimum, maximum, idle=30), delay=delay, walltime=walltime)
    for count, seconds, lull in bursts:
        cluster.submit(count, seconds)
        cluster.run(lull)
    cluster.run_until_done(20_000)
    cluster.walltime = 1e9
    cluster.run(300 + 60)
    alive = [machine for machine in cluster.machines.values() if machine.ends_at > cluster.now]
    assert len(alive) == minimum


@pytest.mark.parametrize("machines", [0, 3])
def test_nothing_is_done_about_nothing(machines: int) -> None:
    adaptive = Adaptive(machines, machines)
    names = tuple("abc"[:machines])
    seen = Backlog(0, 0, 0, 0, {name: JoinedMachine(2, 0) for name in names}, names)
    assert [adaptive.decide(seen, float(now)) for now in range(0, 1000, 100)] == [Decision()] * 10
