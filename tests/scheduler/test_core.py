"""The scheduler's core, one message at a time; test_core_in_any_order.py has them in any order."""

from __future__ import annotations

import time

import pytest

from minidask.scheduler import events as e
from minidask.scheduler.core import HEARTBEAT_TIMEOUT, NO_WORKERS_SECONDS, SchedulerCore
from minidask.wire import messages as m


def test_what_comes_of_an_attempt_that_is_over_is_dropped() -> None:
    core = SchedulerCore()
    core.handle(e.Joined(1, "client", "a", {}), 0.0)
    core.handle(e.Joined(2, "worker", "b", {"slots": 1}), 0.0)
    core.handle(e.Received(1, m.Submit(7, "f", 0, None, 0, None, [], [], False, {}, [b"call"])), 0.0)
    ((_, run),) = [(peer, message) for peer, message in core.assign(0.0) if isinstance(message, m.Run)]
    told = m.TaskMessage(run.task, run.attempt, "test", [b"x"])
    assert core.handle(e.Received(2, told), 0.0) == [(1, m.CallerMessage("test", [b"x"]))]
    assert core.handle(e.Received(2, told._replace(attempt=9)), 0.0) == []
    assert core.handle(e.Received(2, told._replace(task=9)), 0.0) == []
    core.handle(e.Received(2, m.Done(run.task, run.attempt, 0.1, [b"result"])), time.monotonic())
    assert core.handle(e.Received(2, told), 0.0) == []


# --- who is silent, and who could not listen ---


def pass_time(core: SchedulerCore, now: float, seconds: float) -> list[m.Message]:
    """Let time pass, with a tick each second; returns what was told meanwhile."""
    told = [message for second in range(int(seconds)) for _, message in core.handle(e.Tick(), now + second)]
    return [*told, *(message for _, message in core.handle(e.Tick(), now + seconds))]


def test_a_worker_that_is_silent_is_lost() -> None:
    core = SchedulerCore()
    core.handle(e.Joined(2, "worker", "b", {"slots": 1}), 0.0)
    assert not pass_time(core, 0.0, HEARTBEAT_TIMEOUT)
    assert [type(message) for message in pass_time(core, HEARTBEAT_TIMEOUT, 1)] == [m.Goodbye]


def test_a_worker_is_not_silent_while_a_long_message_of_it_is_coming() -> None:
    core = SchedulerCore()
    core.handle(e.Joined(2, "worker", "b", {"slots": 1}), 0.0)
    now = 0.0
    for _ in range(int(3 * HEARTBEAT_TIMEOUT)):
        now += 1
        assert not core.handle(e.Tick(heard={2, 7}), now)
    assert m.Goodbye in map(type, pass_time(core, now, HEARTBEAT_TIMEOUT + 1)), "once no part of it comes, it is"


def test_a_scheduler_that_stood_still_takes_nobody_for_silent() -> None:
    core = SchedulerCore()
    core.handle(e.Joined(1, "client", "a", {}), 0.0)
    core.handle(e.Joined(2, "worker", "b", {"slots": 1}), 0.0)
    now = 1.0
    for _ in range(3):  # what its worker has sent is not read yet, each time
        core.handle(e.Tick(), now)
        now += 3600
        assert not core.handle(e.Tick(), now)
        core.handle(e.Received(2, m.Heartbeat(0)), now)
    assert not pass_time(core, now, HEARTBEAT_TIMEOUT)
    assert m.Goodbye in map(type, pass_time(core, now + HEARTBEAT_TIMEOUT, 1)), "from then on silence counts"


@pytest.mark.parametrize("limit", [1.0, 2.0, 15.0])
def test_a_scheduler_with_any_limit_takes_nobody_for_silent_when_it_stood_still(limit: float) -> None:
    core = SchedulerCore(heartbeat_timeout=limit)
    core.handle(e.Joined(2, "worker", "b", {"slots": 1}), 0.0)
    core.handle(e.Tick(), 0.0)
    assert not core.handle(e.Tick(), 3 * limit)
    assert m.Goodbye in map(type, pass_time(core, 3 * limit, limit + 1))


def test_a_scheduler_that_stood_still_gives_workers_the_whole_time_to_join() -> None:
    core = SchedulerCore()
    core.handle(e.Joined(1, "client", "a", {}), 0.0)
    core.handle(e.Received(1, m.Submit(7, "f", 0, None, 0, None, [], [], False, {}, [b"call"])), 0.0)
    core.handle(e.Tick(), 0.0)
    now = 3600.0
    assert not core.handle(e.Tick(), now)
    assert not pass_time(core, now, NO_WORKERS_SECONDS - 1)
    lost, line = pass_time(core, now + NO_WORKERS_SECONDS - 1, 1)
    assert isinstance(lost, m.TaskLost)
    assert isinstance(line, m.Notice) and "client a has lost 1 task that had not begun" in line.text


# --- a client that does not read ---


def runs(sent: list[tuple[int, m.Message]]) -> list[int]:
    return [message.task for _, message in sent if isinstance(message, m.Run)]


def test_no_task_begins_whose_client_does_not_read_but_those_that_a_task_waits_for() -> None:
    core = SchedulerCore()
    core.handle(e.Joined(1, "client", "a", {}), 0.0)
    core.handle(e.Joined(2, "client", "slot", {"nested": True}), 0.0)
    core.handle(e.Joined(3, "worker", "b", {"slots": 1}), 0.0)
    for number in (7, 8):
        core.handle(e.Received(1, m.Submit(number, "f", 0, None, 0, None, [], [], False, {}, [b"call"])), 0.0)
    assert runs(core.assign(0.0)) == [1]
    assert core.handle(e.Lagging(1, True), 0.0) == []
    core.handle(e.Received(2, m.Submit(1, "f", 0, None, 0, None, [], [1, 1], False, {}, [b"call"])), 0.0)
    core.handle(e.Received(3, m.Waiting(1, 1)), 0.0)
    assert runs(core.assign(0.0)) == [3], "it runs on top of the one that waits for it"
    assert core.handle(e.Received(3, m.Output(1, 0, "stdout", "line")), 0.0) == []
    core.handle(e.Received(3, m.Done(3, 1, 0.1, [b"result"])), 0.0)
    core.handle(e.Received(3, m.Resumed(1, 1)), 0.0)
    assert [type(message) for _, message in core.handle(e.Received(3, m.Done(1, 1, 0.1, [b"result"])), 0.0)] == [
        m.TaskDone
    ]
    assert core.assign(0.0) == []
    core.handle(e.Joined(4, "client", "another", {}), 0.0)
    core.handle(e.Received(4, m.Submit(1, "f", 0, None, 0, None, [], [], False, {}, [b"call"])), 0.0)
    assert runs(core.assign(0.0)) == [4], "others are not held up"
    core.handle(e.Received(3, m.Done(4, 1, 0.1, [b"result"])), 0.0)
    assert core.handle(e.Lagging(2, True), 0.0) == core.assign(0.0) == [], "a slot's client has no tasks of its own"
    assert core.handle(e.Lagging(1, False), 0.0) == []
    assert runs(core.assign(0.0)) == [2]
