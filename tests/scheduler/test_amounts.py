"""Resources: which tasks begin, who holds how much, and when it is free again. See scheduler/amounts.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from minidask.errors import ProtocolError
from minidask.scheduler import invariants
from minidask.scheduler.amounts import UNIT, free_of
from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Event, Joined, Lagging, Left, Received
from minidask.scheduler.holds import number_of
from minidask.wire import messages as m
from minidask.wire.observing import Explain

CLIENT, OTHER, SLOT, WORKER, SECOND = 1, 2, 3, 11, 12
OLD, NEW = 5, 6
GPU = {"gpu": 1}


class Cluster:
    """A core with two clients; its state is checked after each event."""

    def __init__(self, *workers: dict[str, Any]) -> None:
        self.core = SchedulerCore()
        self.began: list[int] = []
        self.runs: dict[int, tuple[int, m.Run]] = {}
        """By the client's number: the worker, and what it was told last."""
        self.do(Joined(CLIENT, "client", "a", {"name": "sarah", "python": "3.11.4"}))
        self.do(Joined(OTHER, "client", "b", {"name": "tom", "python": "3.11.4"}))
        for peer, info in enumerate(workers, WORKER):
            self.join(peer, **info)

    def join(self, peer: int, **info: Any) -> Outbox:
        return self.do(Joined(peer, "worker", f"tcp://m{peer}", {"name": f"m{peer}", "slots": 4, **info}))

    def do(self, event: Event) -> Outbox:
        out = [*self.core.handle(event, 0.0), *self.core.assign(0.0)]
        invariants.check(self.core)
        for peer, message in out:
            if isinstance(message, m.Run):
                self.began.append(int(message.name))
                self.runs[int(message.name)] = peer, message
        return out

    def submit(self, number: int, resources: dict[str, float], client: int = CLIENT, **fields: Any) -> list[int]:
        """Submit a task; returns the numbers of those that begin."""
        self.began.clear()
        task = m.Submit(number, str(number), 0, None, 0, None, [], [], False, resources, [b"call"])
        self.do(Received(client, task._replace(**fields)))
        return [*self.began]

    def say(self, kind: Any, number: int, *fields: Any) -> list[int]:
        """The worker of a task says something of it; returns the numbers of the tasks that begin."""
        self.began.clear()
        peer, run = self.runs[number]
        self.do(Received(peer, kind(run.task, run.attempt, *fields)))
        return [*self.began]

    def done(self, number: int) -> list[int]:
        return self.say(m.Done, number, 0.1, [b"result"])

    def free(self, peer: int = WORKER) -> dict[str, float]:
        return {name: amount / UNIT for name, amount in free_of(self.core.workers[peer]).items()}

    def needs(self) -> list[Any]:
        (answer,) = [it for _, it in self.do(Received(CLIENT, m.Ask(9))) if isinstance(it, m.Answer)]
        return list(answer.info["needs"])

    def why(self, number: int) -> str:
        (answer,) = [it for _, it in self.do(Received(CLIENT, Explain(9, number, True))) if isinstance(it, m.Answer)]
        return str(answer.info["why"])


# --- who begins ---


def test_a_task_begins_where_enough_is_free_and_holds_that() -> None:
    cluster = Cluster({}, {"resources": {"gpu": 2}})
    assert cluster.submit(1, GPU) == [1]
    assert cluster.submit(2, GPU) == [2]
    assert cluster.submit(3, GPU) == []
    assert {peer for peer, _ in cluster.runs.values()} == {SECOND}
    assert cluster.free(SECOND) == {"gpu": 0}
    assert cluster.done(1) == [3]
    cluster.done(2)
    cluster.done(3)
    assert cluster.free(SECOND) == {"gpu": 2}


def test_others_go_past_a_task_that_waits_for_resources() -> None:
    cluster = Cluster({"slots": 3, "resources": {"gpu": 1, "big": 1}})
    assert cluster.submit(1, GPU) == [1]
    assert cluster.submit(2, GPU, priority=9) == []
    assert cluster.submit(3, {}) == [3]
    assert cluster.submit(4, {"big": 1}) == [4]
    assert cluster.submit(5, {}, client=OTHER) == []
    assert cluster.done(3) == [5], "of another client, while the first one's next task waits for the GPU"
    assert cluster.done(1) == [2]


def test_resources_are_no_way_past_those_who_wait_for_the_same_slot() -> None:
    cluster = Cluster({"slots": 1, "resources": {"gpu": 1}})
    assert cluster.submit(1, {}) == [1]
    assert cluster.submit(2, {}) == []
    assert cluster.submit(3, GPU) == []
    assert cluster.done(1) == [2], "it is older"
    assert cluster.done(2) == [3]


def test_a_task_goes_to_the_worker_that_has_what_it_needs_though_another_is_idle() -> None:
    cluster = Cluster({"slots": 1, "resources": {"gpu": 1}}, {"slots": 4})
    assert cluster.submit(1, {}) == [1]
    on = cluster.runs[1][0]
    assert cluster.submit(2, GPU) == ([2] if on == SECOND else [])
    if on == WORKER:
        assert cluster.done(1) == [2]
    assert cluster.runs[2][0] == WORKER


def test_three_tenths_fit_three_times() -> None:
    cluster = Cluster({"resources": {"memory": 0.3}})
    assert [cluster.submit(number, {"memory": 0.1}) for number in (1, 2, 3, 4)] == [[1], [2], [3], []]
    assert cluster.done(2) == [4]
    for number in (1, 3, 4):
        cluster.done(number)
    assert cluster.free() == {"memory": 0.3}


def test_each_of_several_resources_is_needed() -> None:
    cluster = Cluster({"resources": {"gpu": 2, "big": 1}}, {"resources": {"big": 1}})
    assert cluster.submit(1, {"gpu": 1, "big": 1}) == [1]
    assert cluster.submit(2, {"gpu": 1, "big": 1}) == []
    assert cluster.submit(3, {"big": 1}) == [3]
    assert cluster.submit(4, {"gpu": 1}) == [4]
    assert cluster.done(3) == []
    assert cluster.done(1) == [2]


def test_what_nobody_has_waits_and_begins_when_somebody_joins() -> None:
    cluster = Cluster({"resources": {"gpu": 1}})
    assert cluster.submit(1, {"gpu": 2}) == []
    assert cluster.submit(2, {"gpu": 1}) == [2]
    assert cluster.why(1).startswith("it waits: no worker has gpu=2; the most that one has: gpu=1; start one with ")
    assert cluster.why(1).endswith("minidask-worker --resources gpu=2")
    cluster.join(SECOND, resources={"gpu": 4})
    assert cluster.runs[1][0] == SECOND


def test_why_a_task_waits_for_resources() -> None:
    cluster = Cluster({"slots": 2, "resources": {"gpu": 1}}, {"slots": 1})
    cluster.submit(1, GPU)
    cluster.submit(2, GPU)
    assert cluster.why(2) == "it waits: gpu=1 is not free on machine m11: other tasks have it; it is the next one"
    cluster.submit(3, {})
    cluster.submit(4, {})
    cluster.submit(5, {"tpu": 0.5})
    assert "no worker has tpu=0.5; start one with" in cluster.why(5)


def test_all_workers_that_have_it_are_busy() -> None:
    cluster = Cluster({"slots": 1, "resources": {"gpu": 1}})
    cluster.submit(1, {})
    cluster.submit(2, GPU)
    cluster.join(SECOND, slots=1)
    assert cluster.why(2) == "it waits: the only worker with gpu=1 is busy; it is the next one"


def test_a_task_with_resources_is_never_sent_ahead() -> None:
    cluster = Cluster({"slots": 1, "prefetch": 4, "resources": {"gpu": 9}})
    for number in range(1, 8):
        cluster.submit(number, GPU, name="9")
    for _ in range(7):
        assert len(cluster.core.workers[WORKER].tasks) == 1
        cluster.done(9)


def test_limits_of_groups_hold_with_resources() -> None:
    cluster = Cluster({"resources": {"gpu": 4}})
    cluster.do(Received(CLIENT, m.OpenGroup(1, 2, [])))
    assert [cluster.submit(number, GPU, group=1) for number in (1, 2, 3)] == [[1], [2], []]
    assert cluster.submit(4, GPU) == [4]
    assert cluster.done(1) == [3]


def test_a_worker_that_reads_nothing_gets_no_task() -> None:
    cluster = Cluster({"resources": {"gpu": 1}})
    cluster.do(Lagging(WORKER, True))
    assert cluster.submit(1, GPU) == []
    cluster.do(Lagging(WORKER, False))
    assert cluster.began == [1]


# --- until when ---


@pytest.mark.parametrize(
    "end",
    [
        lambda cluster: cluster.done(1),
        lambda cluster: cluster.say(m.Failed, 1, 0.1, "traceback", [b"error"]),
        lambda cluster: cluster.say(m.Stopped, 1, "timeout", "too long"),
        lambda cluster: cluster.say(m.OfferResult, 1, b"r" * 16, 9),
    ],
    ids=["done", "failed", "stopped", "its result is fetched"],
)
def test_resources_are_free_when_the_attempt_is_over(end: Callable[[Cluster], list[int]]) -> None:
    cluster = Cluster({"resources": {"gpu": 1}})
    cluster.submit(1, GPU)
    cluster.submit(2, GPU)
    assert end(cluster) == [2]


@pytest.mark.parametrize(
    "end",
    [
        lambda cluster: cluster.say(m.Died, 1, "SIGKILL", "somebody"),
        lambda cluster: cluster.say(m.GaveBack, 1),
        lambda cluster: cluster.say(m.Stopped, 1, "no-data", "gone"),
    ],
    ids=["died", "given back", "no data"],
)
def test_an_attempt_that_has_ended_is_tried_again_with_its_resources(end: Callable[[Cluster], list[int]]) -> None:
    cluster = Cluster({"resources": {"gpu": 1}})
    cluster.submit(1, GPU)
    cluster.submit(2, GPU)
    began = end(cluster)
    assert began == [1], "it is older, and takes its old place"
    assert cluster.free() == {"gpu": 0}
    assert cluster.done(1) == [2]


def test_a_cancelled_task_holds_its_resources_until_it_has_stopped() -> None:
    cluster = Cluster({"resources": {"gpu": 1}})
    cluster.submit(1, GPU)
    cluster.submit(2, GPU)
    cluster.began.clear()
    cluster.do(Received(CLIENT, m.Cancel([1], True)))
    assert cluster.began == [] and cluster.free() == {"gpu": 0}
    assert cluster.say(m.Stopped, 1, "cancelled", "stopped") == [2]


def test_a_cancelled_task_that_waits_leaves_nothing_behind() -> None:
    cluster = Cluster({"resources": {"gpu": 1}})
    for number in range(1, 100):
        cluster.do(Received(CLIENT, m.OpenGroup(number, 0, [])))
        cluster.submit(number, {"gpu": 2}, group=number)
        cluster.do(Received(CLIENT, m.Cancel([number], False)))
    assert cluster.core.ready._aside == {} == cluster.core.ready._lines
    cluster.submit(100, {"gpu": 2})
    cluster.do(Left(CLIENT, "gone"))
    assert cluster.core.ready.peers() <= {OTHER}


def test_a_lost_worker_loses_what_its_tasks_hold_and_they_go_elsewhere() -> None:
    cluster = Cluster({"resources": {"gpu": 1}}, {"resources": {"gpu": 1}})
    cluster.submit(1, GPU)
    lost = cluster.runs[1][0]
    cluster.do(Left(lost, "gone"))
    assert cluster.runs[1][0] == {WORKER, SECOND}.difference({lost}).pop()
    cluster.done(1)
    assert cluster.free(cluster.runs[1][0]) == {"gpu": 1}


# --- tasks within tasks ---


def nested(*workers: dict[str, Any]) -> Cluster:
    cluster = Cluster(*workers)
    info = {"name": "nested", "nested": True, "python": "3.11.4", "slot_of": "w11"}
    cluster.do(Joined(SLOT, "client", "c", info))
    return cluster


def test_a_guest_has_what_its_host_holds() -> None:
    cluster = nested({"slots": 1, "resources": {"gpu": 1}, "uid": "w11"})
    cluster.submit(1, GPU)
    parent = [cluster.runs[1][1].task, 1]
    assert cluster.submit(2, GPU, client=SLOT, parent=parent) == []
    assert cluster.say(m.Waiting, 1) == [2]
    assert cluster.runs[2][1].host == parent[0] and cluster.free() == {"gpu": 0}
    cluster.done(2)
    assert cluster.free() == {"gpu": 0}
    cluster.say(m.Resumed, 1)
    cluster.done(1)
    assert cluster.free() == {"gpu": 1}


def test_a_guest_that_needs_more_waits_and_others_of_the_nest_go_past_it() -> None:
    cluster = nested({"slots": 2, "resources": {"gpu": 2}, "uid": "w11"})
    cluster.submit(1, GPU)
    cluster.submit(3, GPU, client=OTHER)
    parent = [cluster.runs[1][1].task, 1]
    cluster.submit(4, {"gpu": 2}, client=SLOT, parent=parent)
    cluster.submit(5, {}, client=SLOT, parent=parent)
    assert cluster.say(m.Waiting, 1) == [5]
    assert cluster.done(5) == []
    assert cluster.done(3) == [4], "now there are two: the host's own, and one that is free"
    assert cluster.runs[4][1].host == parent[0] and cluster.free() == {"gpu": 0}


def test_what_a_guest_holds_stays_held_when_its_host_has_ended_before() -> None:
    cluster = nested({"slots": 2, "resources": {"gpu": 1}, "uid": "w11"})
    cluster.submit(1, GPU)
    cluster.submit(2, GPU, client=SLOT, parent=[cluster.runs[1][1].task, 1])
    cluster.say(m.Waiting, 1)
    cluster.submit(3, GPU, client=OTHER)
    assert cluster.done(1) == [], "the guest is stopped, but until it has it holds the GPU"
    assert cluster.say(m.Stopped, 2, "cancelled", "stopped") == [3]


# --- another scheduler ---


def test_an_attempt_of_an_unknown_task_may_hold_anything_until_its_client_is_back() -> None:
    cluster = Cluster()
    task = number_of(OLD, 7)
    cluster.join(WORKER, resources={"gpu": 2}, holds=[[task, 1]])
    assert cluster.submit(1, GPU) == []
    assert cluster.submit(2, {}) == [2]
    cluster.do(Joined(4, "client", "d", {"python": "3.11.4", "keys": [NEW, OLD], "uid": "d"}))
    cluster.began.clear()
    cluster.submit(7, GPU, client=4)
    assert cluster.began == [1], "one of two is held, by the task that was adopted"
    assert cluster.free() == {"gpu": 0}
    cluster.do(Received(WORKER, m.Done(task, 1, 0.1, [b"result"])))
    assert cluster.free() == {"gpu": 1}


def test_what_runs_for_a_client_that_was_cut_off_holds_its_own_and_no_more() -> None:
    cluster = Cluster({"resources": {"gpu": 2}})
    about = {"python": "3.11.4", "keys": [OLD], "uid": "d", "reconnect_timeout": 60.0}
    cluster.do(Joined(4, "client", "d", about))
    assert cluster.submit(7, GPU, client=4) == [7]
    cluster.do(Left(4, "silent", cut=True))
    assert cluster.free() == {"gpu": 1}
    assert cluster.submit(1, GPU) == [1]
    assert cluster.submit(2, GPU) == []
    cluster.do(Joined(5, "client", "d", {**about, "keys": [NEW, OLD]}))
    cluster.submit(7, GPU, client=5)
    assert cluster.free() == {"gpu": 0}
    cluster.began.clear()
    cluster.do(Received(WORKER, m.Done(number_of(OLD, 7), 1, 0.1, [b"result"])))
    assert cluster.began == [2]


def test_a_worker_that_joins_again_still_lends_what_its_attempts_hold() -> None:
    cluster = Cluster({"resources": {"gpu": 1}, "uid": "w"})
    cluster.submit(1, GPU)
    run = cluster.runs[1][1]
    cluster.join(SECOND, resources={"gpu": 1}, uid="w", holds=[[run.task, run.attempt]])
    assert cluster.free(SECOND) == {"gpu": 0}
    assert cluster.submit(2, GPU) == []
    cluster.runs[1] = SECOND, run
    assert cluster.done(1) == [2]


def test_an_attempt_that_another_one_made_needless_holds_its_gpu_until_it_has_stopped() -> None:
    """A machine was away, and its task runs elsewhere; it comes back with the outcome."""
    cluster = Cluster({"resources": {"gpu": 1}, "uid": "w"})
    about = {"python": "3.11.4", "keys": [OLD], "uid": "d"}
    cluster.do(Joined(4, "client", "d", about))
    cluster.submit(7, GPU, client=4)
    run = cluster.runs[7][1]
    cluster.do(Left(WORKER, "gone"))
    cluster.join(SECOND, resources={"gpu": 1}, uid="other")
    assert cluster.runs[7][0] == SECOND
    back = [[run.task, run.attempt]]
    cluster.join(13, resources={"gpu": 1}, uid="w", holds=back, ended=back)
    cluster.submit(1, GPU)
    cluster.submit(2, GPU)
    assert cluster.free(SECOND) == {"gpu": 0} == cluster.free(13)
    cluster.do(Received(13, m.Done(*run[:2], 0.1, [b"result"])))
    assert cluster.runs[1][0] == 13 and 2 not in cluster.runs
    cluster.say(m.Stopped, 7, "cancelled", "stopped")
    assert cluster.runs[2][0] == SECOND


# --- leases ---


def test_a_lease_is_asked_back_for_a_task_only_where_it_would_have_what_it_needs() -> None:
    cluster = Cluster({"slots": 2, "resources": {"gpu": 1}})
    for number in (1, 2):
        cluster.submit(number, {}, client=OTHER, lease=True)
    out = cluster.do(Received(CLIENT, m.Submit(3, "3", 0, None, 0, None, [], [], False, {"gpu": 2}, [b"call"])))
    assert [it for _, it in out if isinstance(it, m.Yield)] == []
    out = cluster.do(Received(CLIENT, m.Submit(4, "4", 0, None, 0, None, [], [], False, GPU, [b"call"])))
    assert len([it for _, it in out if isinstance(it, m.Yield)]) == 1
    out = cluster.do(Received(CLIENT, m.Submit(5, "5", 0, None, 0, None, [], [], False, GPU, [b"call"])))
    assert [it for _, it in out if isinstance(it, m.Yield)] == [], "one GPU: one slot is enough"
    assert cluster.done(1) == [4]


@pytest.mark.parametrize("fields", [{"pin": "tcp://m11"}, {"lease": True}])
def test_neither_a_lease_nor_a_pinned_task_may_need_resources(fields: dict[str, Any]) -> None:
    cluster = Cluster({"resources": {"gpu": 1}})
    with pytest.raises(ProtocolError, match="cannot need resources"):
        cluster.submit(1, GPU, **fields)


def test_people_see_what_a_machine_has() -> None:
    cluster = Cluster({"resources": {"gpu": 1, "memory": 0.5}})
    (answer,) = [it for _, it in cluster.do(Received(CLIENT, m.Ask(1))) if isinstance(it, m.Answer)]
    assert answer.info["machines"][0]["resources"] == {"gpu": 1, "memory": 0.5}


def test_who_asks_is_told_how_many_wait_for_what() -> None:
    cluster = Cluster({"resources": {"gpu": 1}, "slots": 3})
    assert cluster.needs() == []
    cluster.submit(1, GPU)
    for number in (2, 3):
        cluster.submit(number, GPU, client=OTHER, priority=number)
    cluster.submit(4, {"license": 0.5, "gpu": 1})
    cluster.submit(5, {})
    cluster.submit(6, {})
    cluster.submit(7, {})
    assert cluster.needs() == [[{"gpu": 1}, 2], [{"gpu": 1, "license": 0.5}, 1]]
    assert cluster.done(1) == [3]
    cluster.do(Received(CLIENT, m.Cancel([4], False)))
    assert cluster.needs() == [[{"gpu": 1}, 1]]
    cluster.do(Left(OTHER, "bye"))
    assert cluster.needs() == []
