"""Tasks that one worker alone may run: on the core, without clocks or sockets."""

from __future__ import annotations

from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Event, Joined, Left, Received
from minidask.scheduler.invariants import check
from minidask.wire import messages as m
from tests.helpers import counted_steps

CLIENT, SLOT, FIRST, SECOND = 1, 2, 11, 12


class Cluster:
    """A core with a user's client, that of a slot, and two workers of one slot each."""

    def __init__(self) -> None:
        self.core = SchedulerCore()
        self.runs: dict[int, tuple[int, m.Run]] = {}
        self.now(Joined(CLIENT, "client", "c", {}))
        self.now(Joined(SLOT, "client", "s", {"nested": True}))
        for peer in (FIRST, SECOND):
            self.now(Joined(peer, "worker", f"w{peer}", {"slots": 1}))

    def now(self, event: Event) -> Outbox:
        out = [*self.core.handle(event, 0.0), *self.core.assign(0.0)]
        check(self.core)
        self.runs.update({message.task: (peer, message) for peer, message in out if isinstance(message, m.Run)})
        return out

    def submit(self, number: int, pin: str | None, parent: int = 0) -> Outbox:
        peer, run = (SLOT, self.runs[parent][1]) if parent else (CLIENT, None)
        above = [run.task, run.attempt] if run is not None else []
        return self.now(Received(peer, m.Submit(number, "f", 0, None, 0, pin, [], above, False, {}, [b"f"])))

    def done(self, task: int) -> Outbox:
        peer, run = self.runs[task]
        return self.now(Received(peer, m.Done(run.task, run.attempt, 0.1, [b"r"])))

    def wait(self, task: int) -> Outbox:
        peer, run = self.runs[task]
        return self.now(Received(peer, m.Waiting(run.task, run.attempt)))


def lost(out: Outbox) -> list[tuple[int, str]]:
    return [(message.task, message.reason) for _, message in out if isinstance(message, m.TaskLost)]


def test_a_pinned_task_takes_the_next_slot_of_its_worker_before_all_others() -> None:
    cluster = Cluster()
    for number in (1, 2, 3):
        cluster.submit(number, None)
    cluster.submit(4, "w12")
    assert sorted(cluster.runs) == [1, 2]
    (first,) = [task for task, (peer, _) in cluster.runs.items() if peer == FIRST]
    cluster.done(first)
    assert 4 not in cluster.runs, "that was the other worker's slot"
    cluster.done(3 - first)
    assert cluster.runs[4][0] == SECOND


def test_a_pinned_task_without_its_worker_is_lost() -> None:
    cluster = Cluster()
    assert lost(cluster.submit(1, "elsewhere")) == [(1, "worker-left")]
    cluster.submit(2, "w11")
    cluster.submit(3, "w11")
    assert sorted(lost(cluster.now(Left(FIRST, "gone")))) == [(2, "worker-left"), (3, "worker-left")]
    assert not cluster.core.attempts.tasks


def test_a_cancelled_pinned_task_never_runs() -> None:
    cluster = Cluster()
    cluster.submit(1, "w11")
    cluster.submit(2, "w11")
    cluster.now(Received(CLIENT, m.Cancel([2], False)))
    cluster.done(1)
    assert sorted(cluster.runs) == [1]


def test_two_tasks_that_wait_for_one_pinned_to_the_others_worker_do_not_stand_still() -> None:
    cluster = Cluster()
    cluster.submit(1, "w11")
    cluster.submit(2, "w12")
    cluster.submit(1, "w12", parent=1)
    cluster.submit(2, "w11", parent=2)
    assert sorted(cluster.runs) == [1, 2]
    cluster.wait(1)
    cluster.wait(2)
    assert {task: (peer, run.host) for task, (peer, run) in cluster.runs.items() if task > 2} == {
        3: (SECOND, 2),
        4: (FIRST, 1),
    }


def test_each_of_many_pinned_tasks_costs_the_same() -> None:
    """What any client may submit must not stop all others."""

    def steps(count: int) -> int:
        core = SchedulerCore()
        for peer in range(10, 20):
            core.handle(Joined(peer, "worker", f"w{peer}", {"slots": 1 if peer == 19 else 0}), 0.0)
        core.handle(Joined(CLIENT, "client", "c", {}), 0.0)
        with counted_steps() as counted:
            for number in range(1, count + 1):
                pin = f"w{10 + number % 10}"
                core.handle(Received(CLIENT, m.Submit(number, "f", 0, None, 0, pin, [], [], False, {}, [b"f"])), 0.0)
            while runs := [message for _, message in core.assign(0.0) if isinstance(message, m.Run)]:
                for run in runs:
                    core.handle(Received(19, m.Done(run.task, run.attempt, 0.1, [b"r"])), 0.0)
            core.handle(Left(CLIENT, "gone"), 0.0)
        return counted[0]

    assert steps(5000) < 2 * 5 * steps(1000)
