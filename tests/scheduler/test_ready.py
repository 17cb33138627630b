"""The scheduler's queue against a plain model: who is next, whatever was queued, cancelled, parked or came back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidask.scheduler.core import SchedulerCore
from minidask.scheduler.events import Joined, Received
from minidask.scheduler.ready import COMPACT_FROM, ReadyQueue
from minidask.scheduler.tasks import ClientRecord, Ended, GroupRecord, Ready, Running, TaskRecord, WorkerRecord
from minidask.wire import messages as m
from tests.helpers import counted_steps

WORKER = WorkerRecord(1, "w", "w", 1, 0, {}, 0.0)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 2), st.integers(0, 2), st.integers(0, 1)),
        st.tuples(st.just("pop")),
        st.tuples(st.sampled_from(["cancel", "end", "return"]), st.integers(0, 1000)),
        st.tuples(st.just("lag"), st.integers(0, 2)),
    ),
    max_size=120,
)


class Model:
    """The queue beside a list of all tasks."""

    def __init__(self) -> None:
        self.queue = ReadyQueue()
        self.clients = [ClientRecord(peer, f"c{peer}") for peer in (1, 2, 3)]
        self.groups = {client.peer: [None, GroupRecord(1, 1), GroupRecord(2, 2)] for client in self.clients}
        self.tasks: list[TaskRecord] = []
        self.served: dict[int, int] = {}  # by client: when it was last served

    def push(self, client: int, group: int, priority: int) -> None:
        record = self.clients[client]
        of = self.groups[record.peer][group]
        number = len(self.tasks) + 1
        task = TaskRecord(number, record, number, "t", priority, None, of, None, [], [b"x"])
        self.tasks.append(task)
        self.queue.push(task)

    def lag(self, client: int) -> None:
        """A client begins to lag, or has caught up."""
        record = self.clients[client]
        record.lags = not record.lags
        (self.queue.hold if record.lags else self.queue.go_on)(record)

    def runnable(self, client: ClientRecord) -> list[TaskRecord]:
        if client.lags:
            return []
        waiting = [t for t in self.tasks if t.client is client and type(t.state) is Ready]
        return [t for t in waiting if t.group is None or not t.group.full]

    def pop(self) -> None:
        can = {client.peer for client in self.clients if self.runnable(client)}
        expected = self.queue.peek()
        task = self.queue.pop()
        assert task is expected
        if task is None:
            assert not can
            return
        assert task is min(self.runnable(task.client), key=lambda t: (-t.priority, t.id))
        assert self.served.get(task.client.peer, 0) == min(self.served.get(peer, 0) for peer in can), "others were due"
        self.served[task.client.peer] = max(self.served.values(), default=0) + 1
        task.attempt += 1
        task.move("assign", Running(WORKER))
        if task.group is not None:
            task.group.running += 1

    def choose(self, state: type, number: int) -> TaskRecord | None:
        found = [t for t in self.tasks if type(t.state) is state]
        return found[number % len(found)] if found else None

    def cancel(self, number: int) -> None:
        task = self.choose(Ready, number)
        if task is not None:
            task.move("cancel", Ended())
            self.queue.remove(task)

    def leave(self, number: int, *, back: bool) -> None:
        task = self.choose(Running, number)
        if task is not None:
            if task.group is not None:
                task.group.running -= 1
                self.queue.unpark(task.group)
            task.move("gave_back" if back else "done", Ready() if back else Ended())
            if back:
                self.queue.push(task)

    def step(self, name: str, *arguments: int) -> None:
        if name in ("end", "return"):
            self.leave(*arguments, back=name == "return")
        else:
            getattr(self, name)(*arguments)
        for client in self.clients:
            waiting = [t for t in self.tasks if t.client is client and type(t.state) is Ready]
            assert self.queue.count(client) == len(waiting)


@given(STEPS)
def test_the_next_task_is_the_models(steps: list[tuple[str, int, int, int]]) -> None:
    model = Model()
    for step in steps:
        model.step(*step)
    for number, client in enumerate(model.clients):
        if client.lags:
            model.lag(number)
    while len(model.queue):
        model.step("pop")
        model.step("end", 0)
    assert not model.queue.peers() - {client.peer for client in model.clients}


def test_a_newcomer_is_served_before_a_client_with_a_hundred_thousand_tasks() -> None:
    model = Model()
    for _ in range(100_000):
        model.push(0, 0, 0)
    model.queue.pop()
    model.push(1, 0, 0)
    task = model.queue.pop()
    assert task is not None
    assert task.client is model.clients[1]


def test_a_line_of_cancelled_tasks_is_swept() -> None:
    model = Model()
    for _ in range(3 * COMPACT_FROM):
        model.push(0, 0, 0)
    for _ in range(3 * COMPACT_FROM - 1):
        model.cancel(0)
    (line,) = next(iter(model.queue._lines.values())).values()
    assert len(line.tasks) <= COMPACT_FROM
    model.pop()
    assert not model.queue._lines


def test_a_group_may_take_a_closed_ones_number() -> None:
    model = Model()
    model.push(0, 1, 0)
    model.groups[1][1] = GroupRecord(1, 1)
    model.push(0, 1, 0)
    model.pop()
    model.pop()
    assert all(type(task.state) is Running for task in model.tasks)


@pytest.mark.parametrize("end", ["run", "cancelled", "asked back"])
def test_each_of_many_priorities_costs_the_same(end: str) -> None:
    """Tasks within a task that run in its slot, or end with it; or tasks that wait for the slots of leases."""

    def steps(count: int) -> int:
        core = SchedulerCore()
        core.handle(Joined(1, "worker", "w", {"slots": 1}), 0.0)
        core.handle(Joined(2, "client", "c", {}), 0.0)
        lease = end == "asked back"
        core.handle(Received(2, m.Submit(1, "f", 0, None, 0, None, [], [], lease, {}, [b"f"])), 0.0)
        ((_, host),) = core.assign(0.0)
        assert isinstance(host, m.Run)
        with counted_steps() as counted:
            for number in range(2, count):
                parent = [] if lease else [host.task, host.attempt]
                core.handle(
                    Received(2, m.Submit(number, "f", number, None, 0, None, [], parent, False, {}, [b"f"])), 0.0
                )
                if lease:
                    core.assign(0.0)
            if end == "run":
                core.handle(Received(1, m.Waiting(host.task, host.attempt)), 0.0)
                while runs := [message for _, message in core.assign(0.0) if isinstance(message, m.Run)]:
                    for run in runs:
                        core.handle(Received(1, m.Done(run.task, run.attempt, 0.1, [b"r"])), 0.0)
            core.handle(Received(1, m.Done(host.task, host.attempt, 0.1, [b"r"])), 0.0)
        return counted[0]

    assert steps(2000) < 2 * 5 * steps(400)


def test_a_guest_that_is_given_back_takes_its_place_again_among_other_priorities() -> None:
    """It was alone in its line, whose entry may still be in the heap."""
    core = SchedulerCore()
    core.handle(Joined(1, "worker", "w", {"slots": 1}), 0.0)
    core.handle(Joined(2, "client", "c", {}), 0.0)
    core.handle(Received(2, m.Submit(1, "f", 0, None, 0, None, [], [], False, {}, [b"f"])), 0.0)
    ((_, host),) = core.assign(0.0)
    assert isinstance(host, m.Run)
    for number in range(2, 10):
        within = m.Submit(number, "f", number, None, 0, None, [], [host.task, host.attempt], False, {}, [b"f"])
        core.handle(Received(2, within), 0.0)
    began = []
    core.handle(Received(1, m.Waiting(host.task, host.attempt)), 0.0)
    for turn in range(20):
        for _, run in core.assign(0.0):
            assert isinstance(run, m.Run)
            began.append(core.attempts.tasks[run.task].number)
            done = m.GaveBack(run.task, run.attempt) if turn % 2 else m.Done(run.task, run.attempt, 0.1, [b"r"])
            core.handle(Received(1, done), 0.0)
    assert sorted(set(began)) == [*range(2, 10)] and not len(core.ready)
    assert began == sorted(began, reverse=True), "the highest priority comes first, also when it comes again"
