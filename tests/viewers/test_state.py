"""What a cluster looks like, made of its events: see minidask/viewers/state.py."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from minidask.client.events import ClusterEvent, EventDecoder
from minidask.viewers.state import ClusterState
from minidask.wire.observing import Events
from minidask.wire.packing import pack


def event(kind: str, time: float = 0.0, **fields: Any) -> ClusterEvent:
    return ClusterEvent(kind, time, **fields)


def snapshot(*machines: str) -> ClusterEvent:
    described = [{"address": f"tcp://{name}", "name": name, "workers": 2, "host": "h"} for name in machines]
    client = {"id": 1, "name": "sarah", "queued": 3, "running": 1, "finished": 7, "failed": 0}
    return event("snapshot", info={"version": "1", "machines": described, "clients": [client], "tasks": {"queued": 3}})


def activity(state: ClusterState, at: float, *overs: int, machine: str = "tcp://m1") -> None:
    """Have a machine tell what its workers do: how many calls each has ended."""
    state.take(event("usage", at, machine=machine, info={"cpu": 50.0}))
    for worker, over in enumerate(overs):
        sums = {"over": over, "failed": 0, "busy_seconds": 1.0, "idle": worker > 0}
        state.take(event("running", at, machine=machine, worker=worker, name="fit", seconds=2.0, info=sums))


def test_a_snapshot_tells_what_is_there() -> None:
    state = ClusterState()
    state.take(snapshot("m1", "m2"))
    assert [(machine.name, machine.size) for machine in state.machines.values()] == [("m1", 2), ("m2", 2)]
    assert state.clients[1]["name"] == "sarah"
    assert state.tasks == {"queued": 3}
    assert state.info == {"version": "1"}


def test_a_snapshot_begins_anew_and_keeps_what_machines_have_told() -> None:
    state = ClusterState()
    state.take(snapshot("m1", "m2"))
    state.take(event("started", task=5, machine="tcp://m1", name="fit"))
    activity(state, 1.0, 5)
    state.take(snapshot("m1"))
    assert state.running == {}
    assert list(state.machines) == ["tcp://m1"]
    assert state.machines["tcp://m1"].busy == 1


def test_tasks_run_from_their_start_to_their_end() -> None:
    state = ClusterState()
    state.take(snapshot("m1"))
    for task in (5, 6, 7):
        state.take(event("started", task=task, machine="tcp://m1", name="fit"))
    state.take(event("ended", task=5, how="done"))
    state.take(event("ended", task=6, how="raised", text="ValueError"))
    assert list(state.running) == [7]
    state.take(event("again", task=7, how="died", text="SIGKILL"))
    assert state.running == {}
    assert [failure.text for failure in state.failures] == ["ValueError", "SIGKILL"]


@pytest.mark.parametrize(("kind", "how"), [("ended", "cancelled"), ("ended", "held"), ("again", "gave_back")])
def test_what_nobody_is_to_blame_for_is_no_failure(kind: str, how: str) -> None:
    state = ClusterState()
    state.take(event(kind, task=5, how=how))
    assert not state.failures


def test_a_machine_that_leaves_takes_along_what_ran_there() -> None:
    state = ClusterState()
    state.take(snapshot("m1", "m2"))
    state.take(event("started", task=5, machine="tcp://m1"))
    state.take(event("started", task=6, machine="tcp://m2"))
    state.take(event("machine-left", machine="tcp://m1", name="m1", text="it was silent", size=1))
    assert list(state.machines) == ["tcp://m2"] and list(state.running) == [6]
    assert state.failures[-1].text == "it was silent"
    state.take(event("machine-left", machine="tcp://m2", name="m2", text="it closed the connection", size=0))
    assert len(state.failures) == 1, "it had nothing to do"


def test_the_rate_is_that_of_the_calls_that_have_ended() -> None:
    state = ClusterState()
    state.take(snapshot("m1"))
    machine = state.machines["tcp://m1"]
    activity(state, 10.0, 100, 100)
    activity(state, 11.0, 103, 102)
    assert machine.rate is None, "the last message may not be whole yet"
    activity(state, 12.0, 110, 110)
    assert machine.rate == pytest.approx(5.0)
    assert machine.over == 220


def test_workers_that_are_gone_are_forgotten() -> None:
    state = ClusterState()
    state.take(snapshot("m1"))
    activity(state, 10.0, 1, 1, 1)
    activity(state, 11.0, 1, 1)
    activity(state, 12.0, 1, 1)
    assert list(state.machines["tcp://m1"].workers) == [0, 1]


def test_a_machine_that_changes_keeps_its_workers() -> None:
    state = ClusterState()
    state.take(snapshot("m1"))
    activity(state, 10.0, 1)
    state.take(event("machine", machine="tcp://m1", name="m1", size=4, info={"host": "h"}))
    assert state.machines["tcp://m1"].size == 4 and state.machines["tcp://m1"].workers


def test_it_does_not_grow() -> None:
    state = ClusterState()
    state.take(snapshot("m1"))
    for task in range(5000):
        state.take(event("started", task=task))
        state.take(event("ended", task=task, how="raised"))
    assert not state.running and len(state.failures) <= 100


def test_all_of_it_is_json() -> None:
    state = ClusterState()
    state.take(snapshot("m1"))
    activity(state, 10.0, 1, 1)
    state.take(event("ended", task=6, how="raised", text="ValueError"))
    told = json.loads(json.dumps(state.as_dict()))
    (machine,) = told["machines"]
    assert machine["name"] == "m1" and [worker["idle"] for worker in machine["workers"]] == [False, True]
    assert told["failures"][0]["text"] == "ValueError"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "workers"]), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["machines", "clients", "tasks", "x"]), PLAIN | st.lists(PLAIN, max_size=3)),
    PLAIN,
    PLAIN,
)
def test_whatever_a_scheduler_tells_is_shown_or_left_out(info: dict[str, Any], clients: Any, tasks: Any) -> None:
    rows = [["snapshot", 1.0, info], ["counts", 2.0, clients, tasks]]
    state = ClusterState()
    for found in EventDecoder().events(Events(1.0, 0, [pack(rows)]), 1.0):
        state.take(found)
    state.as_dict()
