"""The scheduler's core, one message at a time; test_core_in_any_order.py has them in any order."""

from __future__ import annotations

import time

from minidask.scheduler import events as e
from minidask.scheduler.core import SchedulerCore
from minidask.wire import messages as m


def test_what_comes_of_an_attempt_that_is_over_is_dropped() -> None:
    core = SchedulerCore()
    core.handle(e.Joined(1, "client", "a", {}), 0.0)
    core.handle(e.Joined(2, "worker", "b", {"slots": 1}), 0.0)
    core.handle(e.Received(1, m.Submit(7, "f", 0, None, 0, None, [], [], False, [b"call"])), 0.0)
    ((_, run),) = [(peer, message) for peer, message in core.assign(0.0) if isinstance(message, m.Run)]
    told = m.TaskMessage(run.task, run.attempt, "test", [b"x"])
    assert core.handle(e.Received(2, told), 0.0) == [(1, m.CallerMessage("test", [b"x"]))]
    assert core.handle(e.Received(2, told._replace(attempt=9)), 0.0) == []
    assert core.handle(e.Received(2, told._replace(task=9)), 0.0) == []
    core.handle(e.Received(2, m.Done(run.task, run.attempt, 0.1, [b"result"])), time.monotonic())
    assert core.handle(e.Received(2, told), 0.0) == []
