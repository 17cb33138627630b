"""Which Python's tasks go to which workers, and what is told of those that differ; without processes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from minidask.scheduler.core import NO_WORKERS_SECONDS, Outbox, SchedulerCore
from minidask.scheduler.events import Joined, Left, Received, Tick
from minidask.scheduler.invariants import check
from minidask.wire import messages as m

OURS, PATCHED, OTHER = "3.11.7", "3.11.2", "3.12.1"


class Room:
    """A scheduler's core, and who has joined."""

    def __init__(self) -> None:
        self.core = SchedulerCore()
        self.now = 0.0
        self.peers = 0
        self.tasks = 0
        self.said: Outbox = []

    def do(self, event: Any) -> Outbox:
        out = [*self.core.handle(event, self.now), *self.core.assign(self.now)]
        self.said += out
        check(self.core)
        return out

    def worker(self, python: object, slots: int = 1, **info: Any) -> int:
        self.peers += 1
        info = {"name": f"w{self.peers}", "slots": slots, "python": python, **info}
        self.do(Joined(self.peers, "worker", f"tcp://w:{self.peers}", info))
        return self.peers

    def client(self, python: object = OURS, **info: Any) -> int:
        self.peers += 1
        self.do(Joined(self.peers, "client", f"tcp://c:{self.peers}", {"name": "c", "python": python, **info}))
        return self.peers

    def submit(self, client: int, *, pin: int | None = None, parent: tuple[int, ...] = (), group: int = 0) -> Outbox:
        self.tasks += 1
        pinned = None if pin is None else f"tcp://w:{pin}"
        submit = m.Submit(self.tasks, "f", 0, None, group, pinned, [], list(parent), False, {}, [b"call"])
        return self.do(Received(client, submit))

    def of(self, peer: int, kind: type) -> list[Any]:
        return [message for to, message in self.said if to == peer and type(message) is kind]

    def ran(self, peer: int) -> int:
        return len(self.of(peer, m.Run))

    def finish(self, worker: int) -> None:
        """The worker returns all that it has, and what comes then, until nothing does."""
        done = 0
        while done < self.ran(worker):
            run = self.of(worker, m.Run)[done]
            done += 1
            self.do(Received(worker, m.Done(run.task, run.attempt, 0.01, [b"result"])))


def test_tasks_go_to_workers_of_their_python_alone() -> None:
    room = Room()
    wrong, right, patched = room.worker(OTHER, 8), room.worker(OURS), room.worker(PATCHED)
    client, other_client = room.client(), room.client(OTHER)
    for _ in range(20):
        room.submit(client)
    room.submit(other_client)
    assert room.ran(wrong) == 1
    room.finish(right)
    room.finish(patched)
    assert room.ran(right) + room.ran(patched) == 20
    assert room.ran(wrong) == 1


def test_a_client_whose_python_has_no_free_slot_does_not_hold_up_another_one() -> None:
    room = Room()
    room.worker(OURS)
    other = room.worker(OTHER)
    ours, theirs = room.client(), room.client(OTHER)
    for _ in range(5):
        room.submit(ours)
    room.submit(theirs)
    assert room.ran(other) == 1


@pytest.mark.parametrize("unknown", [None, "", "unknown"])
def test_whoever_tells_no_python_goes_with_all(unknown: object) -> None:
    room = Room()
    workers = [room.worker(python) for python in (OURS, OTHER, unknown)]
    client = room.client(unknown)
    for _ in range(3):
        room.submit(client)
    assert [room.ran(worker) for worker in workers] == [1, 1, 1]


def test_tasks_of_tasks_run_on_the_python_of_the_slot_that_has_pickled_them() -> None:
    """Also where the client behind them goes with all."""
    room = Room()
    wrong, right = room.worker(OTHER, 3), room.worker(OURS, 1)
    client = room.client("")
    room.submit(client, pin=right)
    (run,) = room.of(right, m.Run)
    nested = room.client(OURS, nested=True)
    room.submit(nested, parent=(run.task, run.attempt))
    for _ in range(2):
        room.submit(client)
    assert room.ran(wrong) == 2, "the line of the child, which is before them, held them up"
    room.do(Received(right, m.Waiting(run.task, run.attempt)))
    (_, child) = room.of(right, m.Run)
    assert child.host == run.task
    assert room.ran(wrong) == 2


def test_a_tasks_own_slots_are_idle_for_it_only_where_its_python_is() -> None:
    room = Room()
    right, _wrong = room.worker(OURS), room.worker(OTHER)
    room.submit(room.client())
    (run,) = room.of(right, m.Run)
    nested = room.client(OURS, nested=True)
    room.do(Received(nested, m.OpenGroup(1, 0, [run.task, run.attempt])))
    assert room.of(nested, m.IdleSlots) == [m.IdleSlots(False)]
    room.worker(PATCHED)
    assert room.of(nested, m.IdleSlots) == [m.IdleSlots(False), m.IdleSlots(True)]


def test_a_pinned_task_for_another_python_is_an_error_at_once() -> None:
    room = Room()
    wrong, _right = room.worker(OTHER), room.worker(OURS)
    client = room.client()
    room.submit(client, pin=wrong)
    (lost,) = room.of(client, m.TaskLost)
    assert lost.reason == "version"
    assert "3.11" in lost.text and f"w{wrong} at tcp://w:{wrong}, which had to run it (Python 3.12.1)" in lost.text
    assert not room.ran(wrong)


def test_where_there_are_only_others_a_task_is_an_error_at_once() -> None:
    room = Room()
    wrong = room.worker(OTHER)
    client = room.client()
    room.submit(client)
    (lost,) = room.of(client, m.TaskLost)
    assert lost.reason == "version"
    assert "caller runs Python 3.11" in lost.text and f"w{wrong} at tcp://w:{wrong} (Python 3.12.1)" in lost.text
    room.worker(OURS)
    room.submit(client)
    assert len(room.of(client, m.TaskLost)) == 1


def test_what_waits_for_a_first_worker_is_told_when_that_is_another() -> None:
    room = Room()
    client, any_client = room.client(), room.client("")
    room.submit(client)
    room.worker(OTHER)
    assert [lost.reason for lost in room.of(client, m.TaskLost)] == ["version"]
    assert not room.of(any_client, m.TaskLost)


def test_a_worker_that_was_there_may_come_back() -> None:
    """For as long as without any worker; then the error names those that are there."""
    room = Room()
    room.worker(OTHER)
    right = room.worker(OURS)
    client = room.client()
    room.submit(client)
    room.do(Left(right, "gone"))
    room.submit(client)
    room.do(Tick())
    assert not room.of(client, m.TaskLost)
    room.finish(room.worker(OURS))
    assert len(room.of(client, m.TaskDone)) == 2
    room.do(Left(room.peers, "gone"))
    room.submit(client)
    for _ in range(int(NO_WORKERS_SECONDS)):
        room.do(Tick())
        assert not room.of(client, m.TaskLost)
        room.now += 1
        room.do(Received(1, m.Heartbeat(0)))
    room.do(Tick())
    (lost,) = room.of(client, m.TaskLost)
    assert lost.reason == "no-workers" and "(Python 3.12.1)" in lost.text


def test_a_workers_log_is_told_once_for_each_python() -> None:
    room = Room()
    wrong, right = room.worker(OTHER), room.worker(OURS)
    for python in (OURS, PATCHED, "3.13.0", "", OTHER):
        room.client(python)
    room.client(OURS, nested=True)
    notices = room.of(wrong, m.Notice)
    assert [re.findall(r"Python [\d.]+", notice.text) for notice in notices] == [
        ["Python 3.12.1", "Python 3.11"],
        ["Python 3.12.1", "Python 3.13"],
    ]
    assert len(room.of(right, m.Notice)) == 2
    late = room.worker("3.10.1")
    assert len(room.of(late, m.Notice)) == 3


def test_who_asks_sees_which_workers_are_of_use_and_every_ones_versions() -> None:
    room = Room()
    room.worker(OTHER, packages={"numpy": "2.0"}, odd=[[[]]], long="x" * 5000, shown=1)
    room.worker(OURS)
    for python, usable in ((OURS, [False, True]), (OTHER, [True, False]), ("", [True, True])):
        client = room.client(python)
        room.do(Received(client, m.Ask(1)))
        workers = room.of(client, m.Answer)[0].info["machines"]
        assert [worker["usable"] for worker in workers] == usable
        assert workers[0]["packages"] == {"numpy": "2.0"}
        assert "odd" not in workers[0] and "long" not in workers[0] and workers[0]["shown"] == 1
        assert room.of(client, m.Workers)[0].workers[0][3] == {"python": OTHER, "numpy": "2.0"}
